"""Tensors that LoRAs change, computed one at a time, and the file that holds them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError, WeightsError
from latentrt.bundle.tensors import FLOAT8, Entry, Layout, write_tensors
from latentrt.weights.finite import is_finite
from latentrt.weights.lora.blocks import block_scales, parse_blocks
from latentrt.weights.lora.file import COMPONENTS, LoraFile
from latentrt.weights.lora.layer import Array, Change
from latentrt.weights.lora.lora import Lora
from latentrt.weights.source import TensorSource

Step = tuple[Path, Change, float]
"""A file, the change that it holds for a tensor, and the scale of that."""


class ChangedTensors(Mapping[str, NDArray[Any]]):
    """The changed tensors of one component; each is computed when it is read.

    Sums are float32, in the order of the LoRAs, and rounded once to the dtype that the base
    stores. The base stays as it is.
    """

    renamed = ""

    def __init__(
        self, base: TensorSource, steps: Mapping[str, Sequence[Step]], notes: tuple[str, ...]
    ) -> None:
        self._base = base
        self._steps = steps
        self.notes = notes

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without computing it."""
        stored = self._base.entry(name)
        dtype = np.dtype(np.float32) if stored.dtype.name in FLOAT8 else stored.dtype
        nbytes = stored.nbytes // stored.dtype.itemsize * dtype.itemsize
        return Entry(name, dtype, stored.shape, 0, nbytes)

    def place(self, name: str) -> None:
        """None: a changed tensor lies in no file."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        steps = self._steps[name]
        weight: Array = self._base[name].astype(np.float32)  # a copy
        with np.errstate(over="ignore", invalid="ignore"):
            for _, change, scale in steps:
                weight += change.delta(weight, scale)
            rounded = weight.astype(self.entry(name).dtype, copy=False)
        if not is_finite(rounded):
            path = steps[-1][0]
            text = f"tensor {name!r} does not fit into {rounded.dtype} with it: lower its scale"
            raise WeightsError(path, text)
        return rounded

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def changed_tensors(
    base: Mapping[str, TensorSource], loras: Sequence[Lora]
) -> dict[str, ChangedTensors]:
    """The tensors of each component that LoRAs change, by folder; only touched folders are there.

    `base` has the components' tensors under canonical names, by folder: "unet", "text_encoder",
    "text_encoder_2". A component that it lacks cannot be changed, so its keys match nothing. Files
    are read and checked here, and tensors are computed when they are read.

    Raises what `LoraFile.open` raises, and `InputError` for a block that the U-Net does not have.
    """
    shapes = {
        folder: {name: base[folder].entry(name).shape for name in base[folder]}
        for folder in COMPONENTS
        if folder in base
    }
    steps: dict[str, dict[str, list[Step]]] = {}
    notes: dict[str, list[str]] = {}
    unet = _layers(shapes.get("unet", {}))
    for lora in loras:
        file = LoraFile.open(lora.path, shapes, partial=lora.partial)
        blocks = block_scales(parse_blocks(lora.blocks), unet) if unet else {}
        for folder, changes in file.changes.items():
            for name, change in changes.items():
                factor = blocks.get(_layer(name), 1.0) if folder == "unet" else 1.0
                scale = lora.scale_of(folder) * factor
                if scale:
                    of_folder = steps.setdefault(folder, {})
                    of_folder.setdefault(name, []).append((lora.path, change, scale))
        for folder in file.changes:
            notes.setdefault(folder, []).extend(_notes(file))
    return {
        folder: ChangedTensors(base[folder], of_folder, tuple(notes[folder]))
        for folder, of_folder in steps.items()
    }


def write_changed(path: Path, names: Collection[str], changed: TensorSource) -> None:
    """Write named tensors of a component to a safetensors file, one in memory at a time.

    Raises `InputError` if there are none: an empty file can be no memory map.
    """
    if not names:
        raise InputError("changed", "one changed tensor at least", "none")
    entries = {name: changed.entry(name) for name in names}
    layout = Layout.of({name: (e.dtype, e.shape) for name, e in entries.items()})
    write_tensors(path, layout, lambda name: changed[name])


def _notes(file: LoraFile) -> list[str]:
    notes = list(file.notes)
    if file.unmatched:
        listed = ", ".join(file.unmatched[:3])
        more = f" and {len(file.unmatched) - 3} more" if len(file.unmatched) > 3 else ""
        notes.append(f"match no layer: {listed}{more}")
    return [f"{file.path.name}: {note}" for note in notes]


def _layers(names: Mapping[str, object]) -> frozenset[str]:
    return frozenset(_layer(name) for name in names)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
