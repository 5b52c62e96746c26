"""Tensors of one part that lie in a single file under other names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError, WeightsError
from latentrt.bundle.tensors import Entry, Place, TensorFile
from latentrt.weights.canonical_names import canonical_names
from latentrt.weights.contents import CONVERT, PICKLES, WEIGHTS, check_contents
from latentrt.weights.ldm_names import Spelled, Spelling
from latentrt.weights.source import Config


def open_tensors(path: Path) -> TensorFile:
    """Open a `.safetensors` file; raises `CheckpointError` saying what it is instead."""
    if path.suffix in PICKLES:
        raise CheckpointError(path, CONVERT)
    check_contents(path, WEIGHTS)
    try:
        return TensorFile(path)
    except WeightsError as error:
        problem = f"{error.problem}; download the file again"
        raise CheckpointError(error.path, problem) from error


@dataclass(frozen=True, slots=True)
class Found:
    """A tensor of a part: the stored one, and its own entry, whose bytes lie within that one."""

    stored: Entry
    entry: Entry
    transposed: bool


class SpelledTensors(Mapping[str, NDArray[Any]]):
    """The tensors of one part of a single file, under canonical names."""

    renamed = ""

    def __init__(
        self, file: TensorFile, found: Mapping[str, Found], notes: tuple[str, ...]
    ) -> None:
        self._file = file
        self._found = found
        self.notes = notes

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without reading it."""
        return self._found[name].entry

    def place(self, name: str) -> Place | None:
        """Where a tensor lies in the file; None for OpenCLIP's projection, which is transposed."""
        found = self._found[name]
        return None if found.transposed else Place(self._file.path, found.entry)

    def stored(self) -> Iterator[str]:
        """The names of the stored tensors that are read."""
        return (found.stored.name for found in self._found.values())

    def __getitem__(self, name: str) -> NDArray[Any]:
        found = self._found[name]
        whole = self._file[found.stored.name]
        if found.transposed:
            return np.ascontiguousarray(whole.T)
        begin = (found.entry.begin - found.stored.begin) // found.entry.dtype.itemsize
        count = found.entry.nbytes // found.entry.dtype.itemsize
        return whole.reshape(-1)[begin : begin + count].reshape(found.entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def find_spelled(file: TensorFile, spelling: Spelling, name: str) -> Spelled | None:
    return next((spelled for spelled in spelling(name) if spelled.name in file), None)


def find_shape(file: TensorFile, spelling: Spelling, name: str) -> tuple[int, ...] | None:
    """The stored shape of a tensor by its canonical name, None if it is not there."""
    spelled = find_spelled(file, spelling, name)
    return None if spelled is None else file.entries[spelled.name].shape


def spelled_tensors(
    file: TensorFile, spelling: Spelling, folder: str, config: Config
) -> SpelledTensors:
    """The tensors of a part in a file; raises `CheckpointError` for one that is missing."""
    found: dict[str, Found] = {}
    for name in canonical_names(folder, config):
        spelled = find_spelled(file, spelling, name)
        if spelled is None:
            problem = f"{folder}: tensor {spelling(name)[0].name!r} is missing ({name})"
            raise CheckpointError(file.path, f"{problem}; the file is not a whole checkpoint")
        found[name] = _found(file, spelled, name, _axes(folder, config, name))
    return SpelledTensors(file, found, ())


def _found(file: TensorFile, spelled: Spelled, name: str, axes: int | None) -> Found:
    stored = file.entries[spelled.name]
    shape, begin, end = stored.shape, stored.begin, stored.end
    fused = spelled.third is not None
    if (fused and (not shape or shape[0] % 3)) or (spelled.transposed and len(shape) != 2):
        kind = "three of one size" if fused else "a matrix"
        problem = f"tensor {spelled.name!r} is {shape}, expected {kind}; download the file again"
        raise CheckpointError(file.path, problem)
    if spelled.third is not None:
        shape = (shape[0] // 3, *shape[1:])
        size = stored.nbytes // 3
        begin = stored.begin + spelled.third * size
        end = begin + size
    elif spelled.transposed:
        shape = shape[::-1]
    elif axes is not None and len(shape) >= 2 and set(shape[2:]) <= {1}:
        shape = (*shape[:2], *(1,) * (axes - 2))
    return Found(stored, Entry(name, stored.dtype, shape, begin, end), spelled.transposed)


_ONE_BY_ONE: Final = ("conv_shortcut.weight", "quant_conv.weight", "post_quant_conv.weight")


def _axes(folder: str, config: Config, name: str) -> int | None:
    """The axes of a layer that may be stored as a matrix or as a convolution, None for others."""
    if name.endswith(_ONE_BY_ONE):
        return 4
    if folder in ("unet", "controlnet") and name.endswith((".proj_in.weight", ".proj_out.weight")):
        return 2 if config.get("use_linear_projection") else 4
    linear = folder == "vae" and re.search(r"\.attentions\.\d+\.to_\w+(\.0)?\.weight$", name)
    return 2 if linear else None
