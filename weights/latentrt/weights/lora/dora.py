"""DoRA: the direction of the changed weight, times a magnitude by row or by column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from latentrt.weights.lora.layer import Array, Change, Layer, float32

MAGNITUDES: Final = ("lora_magnitude_vector", "dora_scale")
"""The roles of a magnitude: PEFT's and LyCORIS's."""

Axis = Literal["row", "column"]


@dataclass(frozen=True, slots=True, eq=False)
class Dora:
    """magnitude * (W + dW) / |W + dW|, with one norm for each output row or input column.

    The two libraries scale differently. PEFT's (`inside`) multiplies dW within the norm. Web UIs,
    which read LyCORIS's files, go a part of the way from W to the result. At scale 1 both agree.
    `guessed`: the file does not show the axis. Source: arXiv:2402.09353, eq. 5.
    """

    change: Change
    magnitude: NDArray[Any]
    axis: Axis
    inside: bool
    guessed: bool

    @staticmethod
    def of(layer: Layer, change: Change) -> Dora:
        """Read a layer's magnitude; raises `WeightsError` where it does not fit the layer."""
        role = next(name for name in MAGNITUDES if layer.has(name))
        inside = role == MAGNITUDES[0]
        magnitude = layer.tensor(role)
        axis = "row" if inside else _axis(layer, magnitude)
        size = layer.out if axis == "row" else layer.inner
        if magnitude.size != size or max(magnitude.shape, default=1) != size:
            problem = f"{role} is {list(magnitude.shape)}, expected {layer.out} values"
            raise layer.wrong(f"{problem} by output row or {layer.inner} by input column")
        guessed = not inside and magnitude.ndim < 2 and layer.out == layer.inner
        return Dora(change, magnitude.reshape(-1), axis, inside, guessed)

    def delta(self, weight: Array, scale: float) -> Array:
        """The change, float32 of the layer's shape."""
        changed = weight + self.change.delta(weight, scale if self.inside else 1.0)
        kept = 0 if self.axis == "row" else 1
        along = tuple(n for n in range(changed.ndim) if n != kept)
        squares = np.square(changed, dtype=np.float64).sum(axis=along, keepdims=True)
        norm = np.sqrt(squares).astype(np.float32)
        factor = float32(self.magnitude).reshape(norm.shape) / np.where(norm == 0, 1, norm)
        changed *= factor.astype(np.float32, copy=False)
        changed -= weight
        if not self.inside:
            changed *= np.float32(scale)
        return changed


def _axis(layer: Layer, magnitude: NDArray[Any]) -> Axis:
    """The axis of LyCORIS's magnitude, [out, 1, ...] by row or [1, in, ...] by column.

    A vector of a square layer shows no axis. It is taken by row, as PEFT and today's LyCORIS do.
    """
    shape = magnitude.shape
    if len(shape) > 1 and math.prod(shape) > 1:
        return "column" if shape[0] == 1 else "row"
    return "column" if layer.out != magnitude.size == layer.inner else "row"
