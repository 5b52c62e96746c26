"""One `.safetensors` file in the original layout, read as a checkpoint without a copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.tensors import TensorFile
from latentrt.weights.clip_vocabulary import tokenizer_files
from latentrt.weights.component_specs import CLASSES
from latentrt.weights.inference import (
    MARKS,
    Inferred,
    Overrides,
    UnetShape,
    file_name,
    infer,
    marked,
)
from latentrt.weights.ldm_names import (
    Spelling,
    as_canonical,
    averaged,
    diffusers_vae,
    prefixed,
    unet_spelling,
    vae_spelling,
)
from latentrt.weights.left_over import left_over, what_else
from latentrt.weights.open_clip_names import clip, open_clip
from latentrt.weights.parts import QUANTIZED
from latentrt.weights.source import Config, Source, TensorSource
from latentrt.weights.spelled_tensors import (
    SpelledTensors,
    find_shape,
    find_spelled,
    open_tensors,
    spelled_tensors,
)

UNET_PREFIXES: Final = ("model.diffusion_model.", "diffusion_model.", "unet.", "")
VAE_PREFIXES: Final = ("first_stage_model.", "vae.", "")
_TEXT: Final[Mapping[str, tuple[Spelling, ...]]] = {
    "text_encoder": (
        prefixed("cond_stage_model.transformer.", clip),
        prefixed("cond_stage_model.model.", open_clip),
        prefixed("conditioner.embedders.0.transformer.", clip),
    ),
    "text_encoder_2": (
        prefixed("conditioner.embedders.1.model.", open_clip),
        prefixed("conditioner.embedders.0.model.", open_clip),
        prefixed("conditioner.embedders.1.transformer.", clip),
    ),
}
_TOKENS: Final = "text_model.embeddings.token_embedding.weight"
_MOST_LAYERS: Final = 4
_OPTIONS: Final[Mapping[str, str]] = {
    "unet": "give the checkpoint that has it",
    "vae": "give one with --vae FILE",
    "text_encoder": "give one with --text-encoder CHECKPOINT",
    "text_encoder_2": "give one with --text-encoder CHECKPOINT",
}


@dataclass(frozen=True, slots=True)
class SingleFile:
    """A checkpoint in one file, whose configs are inferred or given.

    `prediction_type` is None where the file does not tell it: one evaluation of the U-Net can.
    `notes` have a sentence for each thing that was inferred, and for each group of tensors that
    nothing reads.
    """

    path: Path
    inferred: Inferred
    tensors_of: Mapping[str, TensorSource]
    notes: tuple[str, ...]
    parts: Mapping[str, Source] = field(default_factory=dict[str, Source])
    like: Source | None = None

    @staticmethod
    def open(
        path: Path,
        overrides: Overrides | None = None,
        parts: Mapping[str, Source] | None = None,
        like: Source | None = None,
    ) -> SingleFile:
        """Open a file and find every tensor of its parts; none is read.

        `parts` has another checkpoint for each folder that is not to be read from the file, such as
        "vae". `like` is a checkpoint whose configs and tokenizers are taken, for an architecture
        that is not known; its tensors are not read. Raises `CheckpointError` for a file that is no
        checkpoint, and for one that lacks a part or a tensor, naming it and what to do. Raises
        `InputError` where `overrides` has both an architecture and configs to take.
        """
        overrides, parts = overrides or Overrides(), parts or {}
        if like is not None and overrides.architecture is not None:
            raise InputError("architecture", "none beside configs", repr(overrides.architecture))
        return _open(open_tensors(path), overrides, parts, like)

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return file_name(self.path)

    @property
    def prediction_type(self) -> str | None:
        """What the U-Net predicts, None if unknown."""
        return self.inferred.prediction_type

    @property
    def index(self) -> Mapping[str, Any]:
        """`model_index.json`."""
        scheduler = self.inferred.configs["scheduler"]["_class_name"]
        return {**self.inferred.configs["model_index"], "scheduler": ["diffusers", scheduler]}

    def config(self, folder: str) -> Config:
        """The config of a part. A VAE of another checkpoint has the scales of this U-Net."""
        own = self.inferred.configs
        if folder not in self.parts:
            return own[folder]
        config = self.parts[folder].config(folder)
        scales = ("scaling_factor", "latents_mean", "latents_std")
        return {**config, **{k: own["vae"].get(k) for k in scales}} if folder == "vae" else config

    def tensors(self, folder: str) -> TensorSource:
        """The tensors of a part."""
        return self.tensors_of[folder]

    def tokenizer(self, folder: str) -> dict[str, bytes]:
        """CLIP's vocabulary, or the files that the text encoder's checkpoint has."""
        encoder = folder.replace("tokenizer", "text_encoder")
        other = self.parts.get(encoder, self.like)
        if other is not None:
            return other.tokenizer(folder)
        return tokenizer_files(str(self.inferred.configs[folder]["pad_token"]))


def _open(
    file: TensorFile, overrides: Overrides, parts: Mapping[str, Source], like: Source | None
) -> SingleFile:
    where = str(file.path)
    unet = find_unet(file)
    if unet is None:
        raise CheckpointError(where, what_else(file))
    spelling, layers = unet
    if overrides.ema:
        spelling = averaged(unet_spelling(layers))
        if find_spelled(file, spelling, "conv_in.weight") is None:
            raise CheckpointError(where, "has no EMA weights (model_ema): read it without --ema")
    if like is None:
        shape = UnetShape.read(where, partial(find_shape, file, spelling), layers)
        inferred = infer(file, where, shape, overrides)
    else:
        inferred = _as(file, where, like, overrides)
    configs = inferred.configs
    spellings: dict[str, Spelling | None] = {"unet": spelling, "vae": find_vae(file)}
    spellings |= {folder: _first(file, several, _TOKENS) for folder, several in _TEXT.items()}
    tensors: dict[str, TensorSource] = {}
    notes: list[str] = [*inferred.notes]
    for folder in (name for name in CLASSES if name in configs):
        other, spelled = parts.get(folder), spellings[folder]
        if other is not None:
            tensors[folder] = other.tensors(folder)
            notes.append(f"{folder}: taken from {other.name}")
        elif spelled is None:
            raise CheckpointError(where, f"has no {folder}: {_OPTIONS[folder]}")
        else:
            tensors[folder] = spelled_tensors(file, spelled, folder, configs[folder])
    read = {
        name
        for part in tensors.values()
        if isinstance(part, SpelledTensors)
        for name in part.stored()
    }
    _check_left_over(file, read, ema=overrides.ema)
    notes += left_over(file, read | MARKS)
    return SingleFile(file.path, inferred, tensors, tuple(notes), parts, like)


def _check_left_over(file: TensorFile, read: set[str], *, ema: bool) -> None:
    """Raise `CheckpointError` for tensors that change what a U-Net computes, and are not read."""
    # Averages have no dots in their names: "to_qweight" is no scale.
    rest = [name for name in file if name not in read and not name.startswith("model_ema.")]
    scales = [name for name in rest if QUANTIZED.fullmatch(name)]
    if scales:
        problem = f"tensor {scales[0]!r} belongs to quantized weights"
        raise CheckpointError(file.path, f"{problem}, which are not supported; get the originals")
    own = () if ema else tuple(prefix for prefix in UNET_PREFIXES if prefix)
    unread = [name for name in rest if name.startswith(own)] if own else []
    if unread:
        problem = f"tensor {unread[0]!r} is of another kind of U-Net, which is not supported"
        raise CheckpointError(file.path, problem)


def _as(file: TensorFile, where: str, like: Source, overrides: Overrides) -> Inferred:
    """The configs of another checkpoint, with what the file's marks say."""
    folders = [f for f in CLASSES if like.index.get(f, f) not in (None, [None, None])]
    if "text_encoder_2" not in like.index:
        folders.remove("text_encoder_2")
    configs = {folder: like.config(folder) for folder in (*folders, "scheduler")}
    index = {k: v for k, v in like.index.items() if k != "scheduler"}
    stated = overrides.prediction_type
    predicted = stated or str(configs["scheduler"].get("prediction_type") or "epsilon")
    reason = "as stated" if stated else "as its scheduler's config says"
    said = (f"configs: those of {like.name}", f"prediction_type: {predicted}, {reason}")
    return marked(file, where, {**configs, "model_index": index}, predicted, said, overrides)


def find_unet(file: TensorFile) -> tuple[Spelling, int] | None:
    """The spelling of a file's U-Net, and the layers in its blocks; None if it has none."""
    for prefix in UNET_PREFIXES:
        for layers in range(1, _MOST_LAYERS + 1):
            for spelling in (unet_spelling(layers), as_canonical):
                spelled = prefixed(prefix, spelling)
                first = ("conv_in.weight", "down_blocks.0.downsamplers.0.conv.weight")
                beyond = f"down_blocks.0.resnets.{layers}.conv1.weight"
                if None in [find_spelled(file, spelled, name) for name in first]:
                    continue
                if find_spelled(file, spelled, beyond) is None:
                    return spelled, layers
    return None


def find_vae(file: TensorFile) -> Spelling | None:
    """The spelling of a file's VAE, None if it has none."""
    for prefix in VAE_PREFIXES:
        levels = 0
        while f"{prefix}decoder.up.{levels}.block.0.norm1.weight" in file:
            levels += 1
        spellings = (prefixed(prefix, vae_spelling(levels)), prefixed(prefix, diffusers_vae))
        found = _first(file, spellings, "decoder.mid_block.attentions.0.to_q.weight")
        if found is not None:
            return found
    return None


def _first(file: TensorFile, spellings: Iterable[Spelling], name: str) -> Spelling | None:
    return next((s for s in spellings if find_spelled(file, s, name) is not None), None)
