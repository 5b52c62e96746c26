"""Arrays at another size, as PyTorch resamples them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["nearest", "bilinear", "bicubic"]
_BICUBIC: Final = -0.75
"""The coefficient of PyTorch's bicubic kernel; Pillow's is -0.5."""


def resample(
    array: NDArray[np.float32], height: int, width: int, mode: Mode
) -> NDArray[np.float32]:
    """An array [..., h, w] at another size, float32; beyond its edges the last value goes on.

    Source: torch's `interpolate` with `align_corners=False`, which blurs nothing before it makes an
    array smaller.
    """
    rows = _matrix(array.shape[-2], height, mode)
    columns = _matrix(array.shape[-1], width, mode)
    found: NDArray[np.float64] = rows @ array.astype(np.float64) @ columns.T
    return found.astype(np.float32)


def _matrix(old: int, new: int, mode: Mode) -> NDArray[np.float64]:
    """What takes `old` values to `new` ones, [new, old]."""
    if mode == "nearest":
        return np.eye(old)[np.arange(new) * old // new]
    places = (np.arange(new) + 0.5) * (old / new) - 0.5
    if mode == "bilinear":
        places = np.maximum(places, 0.0)
    first = np.floor(places).astype(np.int64)
    matrix = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        weights = _KERNELS[mode](np.abs(places - (first + offset)))
        np.add.at(matrix, (np.arange(new), np.clip(first + offset, 0, old - 1)), weights)
    return matrix


def _linear(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - distance, 0.0)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of a value at a distance from 0 to 2."""
    a, x = _BICUBIC, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)


_KERNELS: Final[Mapping[Mode, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = (
    MappingProxyType({"bilinear": _linear, "bicubic": _cubic})
)
