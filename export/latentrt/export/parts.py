"""A checkpoint's parts, checked: each folder's config filled in, every tensor where it belongs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from latentrt.bundle.errors import CheckpointError
from latentrt.export.family import Family, check_fit, check_unet
from latentrt.export.modules import WHOLE, Config
from latentrt.export.source import Source, TensorSource
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


def open_parts(source: Source, family: Family) -> dict[str, Part]:
    """Check a checkpoint's architecture and every tensor's name and shape.

    Raises `CheckpointError` naming the config field or the tensor that does not fit.
    """
    parts = {folder: _open_part(source, family, folder) for folder in family.folders}
    check_fit(source, family, {folder: part.config for folder, part in parts.items()})
    return parts


def _open_part(source: Source, family: Family, folder: str) -> Part:
    whole = WHOLE[folder]
    stated = source.config(folder)
    _check_class(f"{source.name}/{folder}/config.json", stated, whole.class_name)
    try:
        with torch.device("meta"):
            module = whole.make(stated)
    except Exception as error:  # whatever a library says of a config that it cannot build
        problem = f"is not a config of {whole.class_name}: {type(error).__name__}: {error}"
        raise CheckpointError(f"{source.name}/{folder}/config.json", problem) from error
    config = whole.filled(module)
    if folder == "unet":
        check_unet(f"{source.name}/unet", family, config)
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    tensors = source.tensors(folder)
    _check_tensors(f"{source.name}/{folder}", expected, tensors)
    return Part(folder, config, tensors, tuple(sorted(expected)))


def _check_class(where: str, config: Config, expected: str) -> None:
    listed = config.get("architectures")
    found = config.get("_class_name") or (
        listed[0] if isinstance(listed, list) and listed else listed
    )
    if found != expected:
        raise CheckpointError(where, f"architecture {found!r} is not supported; {expected} is")


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
