"""What is exported: a checked set of configs and tensors, from a folder or made up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError
from latentrt.bundle.tensors import Entry
from latentrt.export.modules import WHOLE, Config
from latentrt.weights.checkpoint import HARMLESS

_INERT: Final = frozenset(
    {
        "_class_name",
        "_diffusers_version",
        "_name_or_path",
        "_use_default_values",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "sample_size",
    }
)
"""Config fields that decide nothing a graph computes."""

_PLAIN_UNET: Final[Mapping[str, Any]] = {
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None,
    "center_input_sample": False,
}
"""Values under which a U-Net takes latents, a timestep and text, and nothing else."""


class TensorSource(Protocol):
    """Named arrays whose dtype and shape are known before they are read."""

    renamed: str

    def entry(self, name: str) -> Entry: ...
    def __getitem__(self, name: str) -> NDArray[Any]: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...


class Source(Protocol):
    """A checkpoint: `latentrt.weights.checkpoint.Checkpoint`, or random weights."""

    @property
    def name(self) -> str: ...
    @property
    def index(self) -> Mapping[str, Any]: ...
    def config(self, folder: str) -> Mapping[str, Any]: ...
    def tensors(self, folder: str) -> TensorSource: ...
    def tokenizer(self) -> dict[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """One folder of a checkpoint that fits its architecture: config filled in, tensors checked."""

    folder: str
    config: Config
    tensors: TensorSource
    names: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every config field that decides what the graph computes."""
        decisive = {k: v for k, v in self.config.items() if k not in _INERT}
        text = json.dumps(decisive, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def open_parts(source: Source) -> dict[str, Part]:
    """Check a checkpoint's architecture and every tensor's name and shape.

    Raises `CheckpointError` naming the config field or the tensor that does not fit.
    """
    _check_class(source, "model_index.json", source.index, "StableDiffusionPipeline")
    parts = {folder: _open_part(source, folder) for folder in WHOLE}
    unet, vae = parts["unet"].config, parts["vae"].config
    if unet["in_channels"] != vae["latent_channels"]:
        problem = (
            f"U-Net takes {unet['in_channels']} channels, the VAE has {vae['latent_channels']}: "
            "only text to image is supported"
        )
        raise CheckpointError(f"{source.name}/unet", problem)
    if unet["out_channels"] != unet["in_channels"]:
        problem = f"out_channels is {unet['out_channels']}, in_channels {unet['in_channels']}"
        raise CheckpointError(f"{source.name}/unet", problem)
    width = parts["text_encoder"].config["hidden_size"]
    if unet["cross_attention_dim"] != width:
        problem = f"cross_attention_dim {unet['cross_attention_dim']} but text of width {width}"
        raise CheckpointError(f"{source.name}/unet", problem)
    return parts


def _check_class(source: Source, where: str, config: Config, expected: str) -> None:
    listed = config.get("architectures")
    found = config.get("_class_name") or (
        listed[0] if isinstance(listed, list) and listed else listed
    )
    if found != expected:
        problem = f"architecture {found!r} is not supported; {expected} is"
        raise CheckpointError(f"{source.name}/{where}", problem)


def _open_part(source: Source, folder: str) -> Part:
    whole = WHOLE[folder]
    stated = source.config(folder)
    _check_class(source, f"{folder}/config.json", stated, whole.class_name)
    try:
        with torch.device("meta"):
            module = whole.make(stated)
    except Exception as error:  # whatever a library says of a config that it cannot build
        problem = f"is not a config of {whole.class_name}: {type(error).__name__}: {error}"
        raise CheckpointError(f"{source.name}/{folder}/config.json", problem) from error
    config = whole.filled(module)
    if folder == "unet":
        for field, plain in _PLAIN_UNET.items():
            if config.get(field, plain) != plain:
                problem = f"{field} is {config[field]!r}: this kind of U-Net is not supported"
                raise CheckpointError(f"{source.name}/unet", problem)
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    tensors = source.tensors(folder)
    _check_tensors(f"{source.name}/{folder}", expected, tensors)
    return Part(folder, config, tensors, tuple(sorted(expected)))


def _check_tensors(
    where: str, expected: Mapping[str, tuple[int, ...]], tensors: TensorSource
) -> None:
    stored = set(tensors)
    missing = sorted(set(expected) - stored)
    if missing:
        raise CheckpointError(where, f"tensor {missing[0]!r} is missing{_more(missing)}")
    unknown = sorted(stored - set(expected) - HARMLESS)
    if unknown:
        raise CheckpointError(where, f"tensor {unknown[0]!r} is unknown{_more(unknown)}")
    for name, shape in expected.items():
        entry = tensors.entry(name)
        if entry.shape != shape:
            raise CheckpointError(where, f"tensor {name!r} is {entry.shape}, expected {shape}")
        if entry.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
            raise CheckpointError(where, f"tensor {name!r} is {entry.dtype}, expected a float")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
