"""A tensor's change as it is stored: full differences and norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.weights.lora.layer import Array, Layer, float32


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """The stored difference; alpha does not count."""

    values: NDArray[Any]
    shape: tuple[int, ...]

    @staticmethod
    def of(layer: Layer, role: str, shape: tuple[int, ...]) -> Difference:
        """Read a difference; raises `WeightsError` where it does not fit the tensor.

        A 1x1 convolution may be stored as a matrix, and a matrix as a 1x1 convolution.
        """
        values = layer.tensor(role)
        if _without_ones(values.shape) != _without_ones(shape):
            raise layer.wrong(f"{role} is {list(values.shape)}, expected {list(shape)}")
        return Difference(values, shape)

    def delta(self, weight: Array, scale: float) -> Array:
        """The change, float32 of the tensor's shape."""
        return (float32(self.values) * np.float32(scale)).reshape(self.shape)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
