"""A diffusers folder, read without PyTorch: configs, and tensors under canonical names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError, WeightsError
from latentrt.bundle.tensors import Entry, TensorFile

_STEMS: Final = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_VARIANTS: Final = ("", ".fp16", ".non_ema")
_PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth")
_CONVERT: Final = (
    "a pickled file runs code when it is loaded; on a machine you trust, load it with PyTorch and "
    "write the tensors with safetensors.torch.save_file"
)

HARMLESS: Final = frozenset({"text_model.embeddings.position_ids"})
"""Buffers that checkpoints carry and no graph reads."""


class Tensors(Mapping[str, NDArray[Any]]):
    """The tensors of one component, sharded or not, under canonical names.

    `renamed` says which convention of names was found other than the canonical one, if any.
    """

    def __init__(self, files: tuple[TensorFile, ...], folder: str) -> None:
        self._places: dict[str, tuple[TensorFile, str]] = {}
        self.renamed: str = ""
        for file in files:
            for stored in file:
                name, convention = canonical_name(stored, folder)
                if name in self._places:
                    raise CheckpointError(file.path, f"tensor {stored!r} is there twice")
                self.renamed = self.renamed or convention
                self._places[name] = (file, stored)

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without reading it."""
        file, stored = self._places[name]
        return file.entries[stored]

    def __getitem__(self, name: str) -> NDArray[Any]:
        file, stored = self._places[name]
        return file[stored]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


_OLD_ATTENTION: Final = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_OLD_VAE: Final = re.compile(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)")


def canonical_name(stored: str, folder: str) -> tuple[str, str]:
    """The canonical name of a stored tensor, and what convention it was stored under ("" if that).

    Text encoders bear the prefix `text_model.`, which some writers drop; old VAEs name their
    attention layers query, key, value, proj_attn.
    """
    if folder.startswith("text_encoder") and stored.split(".")[0] in (
        "embeddings",
        "encoder",
        "final_layer_norm",
    ):
        return f"text_model.{stored}", "text encoder without the prefix 'text_model.'"
    match = _OLD_VAE.fullmatch(stored)
    if folder == "vae" and match is not None:
        return f"{match[1]}{_OLD_ATTENTION[match[2]]}{match[3]}", "VAE with old attention names"
    return stored, ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A diffusers folder: `model_index.json` and one folder a component."""

    path: Path
    index: Mapping[str, Any]

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """Open a folder; raises `CheckpointError` saying what it is instead."""
        if path.is_file():
            if path.suffix in _PICKLES:
                raise CheckpointError(path, _CONVERT)
            raise CheckpointError(path, "is a file; a diffusers folder is expected")
        if not path.is_dir():
            raise CheckpointError(path, "no such checkpoint folder")
        index = path / "model_index.json"
        if not index.is_file():
            pickles = sorted(p.name for p in path.iterdir() if p.suffix in _PICKLES)
            if pickles:
                raise CheckpointError(path / pickles[0], _CONVERT)
            raise CheckpointError(path, "is not a diffusers folder: it has no model_index.json")
        return Checkpoint(path, _read_json(index))

    @property
    def name(self) -> str:
        """What the checkpoint is called in messages and manifests."""
        return self.path.resolve().name

    def config(self, folder: str) -> Mapping[str, Any]:
        """`config.json` (or the scheduler's, the tokenizer's) of a component."""
        kind = folder.removesuffix("_2")
        names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
        path = self.path / folder / names.get(kind, "config.json")
        if not path.is_file():
            raise CheckpointError(path, "is missing")
        return _read_json(path)

    def tensors(self, folder: str) -> Tensors:
        """The tensors of a component; raises `CheckpointError` if there is no safetensors file."""
        where = self.path / folder
        if not where.is_dir():
            raise CheckpointError(where, "is missing")
        stem = _STEMS.get(folder, "model")
        for variant in _VARIANTS:
            single = where / f"{stem}{variant}.safetensors"
            index = where / f"{stem}.safetensors.index{variant}.json"
            if single.is_file():
                return _open((single,), folder)
            if index.is_file():
                return _open(_shards(index), folder)
        pickles = sorted(p for p in where.iterdir() if p.suffix in _PICKLES)
        if pickles:
            raise CheckpointError(pickles[0], _CONVERT)
        raise CheckpointError(where / f"{stem}.safetensors", "is missing")

    def tokenizer(self, folder: str = "tokenizer") -> dict[str, bytes]:
        """The files of a tokenizer by name, as they are: all that its own loader may read."""
        where = self.path / folder
        names = (
            "tokenizer.json",
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            # Those that a tokenizer_config.json lists for single versions of transformers.
            *(p.name for p in sorted(where.glob("tokenizer.*.json"))),
        )
        try:
            found = {n: (where / n).read_bytes() for n in names if (where / n).is_file()}
        except OSError as error:
            raise CheckpointError(where, f"cannot be read: {error}") from error
        if "tokenizer.json" not in found and not {"vocab.json", "merges.txt"} <= set(found):
            raise CheckpointError(where, "has neither tokenizer.json nor vocab.json and merges.txt")
        return found


def _open(paths: tuple[Path, ...], folder: str) -> Tensors:
    try:
        return Tensors(tuple(TensorFile(p) for p in paths), folder)
    except WeightsError as error:
        raise CheckpointError(error.path, error.problem) from error


def _shards(index: Path) -> tuple[Path, ...]:
    places: object = _read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(index, "has no weight_map")
    names = sorted({str(name) for name in cast("dict[str, object]", places).values()})
    for name in names:
        if set(name) & set("/\\:\0") or not name.endswith(".safetensors"):
            raise CheckpointError(index, f"names a shard {name!r} that is not beside it")
    return tuple(index.parent / name for name in names)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: object = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, "is not a JSON object")
    return cast("dict[str, Any]", value)
