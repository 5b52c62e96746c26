"""Large arrays as tiles of one size that overlap, and tiles joined again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

TILE: Final = 64
"""Latents of a tile's side: 512 pixels, what SD 1's VAE was trained on."""
OVERLAP: Final = 16
"""Latents that neighbours share."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile's place among latents: its first row and column, its height and width."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: Array, factor: int = 1) -> Array:
        """Its part of an array [c, h, w] of latents, or of what is `factor` times as large."""
        rows = slice(self.top * factor, (self.top + self.height) * factor)
        columns = slice(self.left * factor, (self.left + self.width) * factor)
        return array[:, rows, columns]


def tiles(height: int, width: int) -> tuple[Tile, ...]:
    """Tiles that cover latents of a height and width, all of one size, row by row.

    Neighbours share at least `OVERLAP` latents.
    """
    sides = min(TILE, height), min(TILE, width)
    places = product(_starts(height, sides[0]), _starts(width, sides[1]))
    return tuple(Tile(top, left, *sides) for top, left in places)


def joined(parts: Sequence[tuple[Tile, Array]], factor: int = 1) -> Array:
    """One array of tiles' arrays [c, factor * h, factor * w]; they fade into each other."""
    first = parts[0][1]
    height = max(tile.top + tile.height for tile, _ in parts) * factor
    width = max(tile.left + tile.width for tile, _ in parts) * factor
    found = np.zeros((len(first), height, width), np.float32)
    weights = np.zeros((1, height, width), np.float32)
    for tile, array in parts:
        rows, columns = (
            _fade(side * factor, OVERLAP * factor) for side in (tile.height, tile.width)
        )
        weight = rows[:, None] * columns
        tile.of(found, factor)[...] += array * weight
        tile.of(weights, factor)[...] += weight
    found /= weights
    return found


def _starts(length: int, side: int) -> Iterator[int]:
    """The first latents of tiles along an axis, evenly spaced."""
    count = 1 if length <= side else -(-(length - OVERLAP) // (side - OVERLAP))
    for index in range(count):
        yield index * (length - side) // max(count - 1, 1)


def _fade(length: int, overlap: int) -> Array:
    """A tile's weight along an axis: it rises at its beginning and falls at its end, above 0."""
    distance = np.arange(length) + 0.5
    ramp = np.minimum(distance, length - distance) / overlap
    return np.minimum(ramp, 1.0).astype(np.float32)
