"""Rows of a U-Net call: what the model is asked about one latent, and many of them in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.engines.engine import Engine

Conditioning = Mapping[str, NDArray[np.float32]]
"""Every input of a U-Net but `sample` and `timestep`, without the batch axis."""

Signature = tuple[tuple[str, tuple[int, ...], str], ...]

RowKind = tuple[Callable[[int], Engine], Signature]
"""What gives the engines, and a signature: rows share a call where both are equal."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One latent as the model is to see it, whatever the family.

    `sample` is float32 [c, h, w], scaled for the model; `timestep` what the model is told; the
    conditioning of a prompt is one object for all steps, so that it is copied once.
    """

    sample: NDArray[np.float32]
    timestep: float
    conditioning: Conditioning

    @property
    def signature(self) -> Signature:
        """Names, shapes and dtypes: rows of one model and signature can share a call."""
        arrays = {"sample": self.sample, **self.conditioning}
        return tuple((name, a.shape, a.dtype.name) for name, a in sorted(arrays.items()))


class Batch:
    """The input arrays of one engine, filled with rows call after call. Not thread-safe."""

    def __init__(self, unet: Engine) -> None:
        self._unet = unet
        self._arrays: dict[str, NDArray[Any]] = {
            spec.name: np.zeros(spec.shape({}), spec.dtype) for spec in unet.inputs
        }
        self.size = len(self._arrays["sample"])
        self._held: list[Conditioning | None] = [None] * self.size

    def evaluate(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """The model's outputs for 1 to `size` rows of this engine's signature, [rows, c, h, w].

        Places that are left over repeat the first row: whatever they held before might be slow or
        not finite.
        """
        if not 1 <= len(rows) <= self.size:
            raise InputError("rows", f"1 to {self.size}", len(rows))
        for place in range(self.size):
            self._put(place, rows[place] if place < len(rows) else rows[0])
        outputs = self._unet(self._arrays)["model_output"][: len(rows)]
        return outputs if outputs.dtype == np.float32 else outputs.astype(np.float32)

    def _put(self, place: int, row: Row) -> None:
        self._arrays["sample"][place] = row.sample
        self._arrays["timestep"][place] = row.timestep
        if self._held[place] is not row.conditioning:
            for name, array in row.conditioning.items():
                self._arrays[name][place] = array
            self._held[place] = row.conditioning


class Batches:
    """The batches of one kind of row, each made when it is first needed. Not thread-safe.

    `unet` gives the engine of a size; `sizes` are those there are, ascending.
    """

    def __init__(self, unet: Callable[[int], Engine], sizes: Sequence[int]) -> None:
        self._unet = unet
        self._sizes = sizes
        self._made: dict[int, Batch] = {}

    def fitting(self, count: int) -> Batch:
        """The smallest that holds so many rows."""
        size = next(size for size in self._sizes if size >= count)
        if size not in self._made:
            self._made[size] = Batch(self._unet(size))
        return self._made[size]
