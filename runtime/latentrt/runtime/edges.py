"""Edges of a picture by Canny's rule, as ControlNets for edges read them.

Source: J. Canny, "A Computational Approach to Edge Detection", IEEE PAMI 8(6), 1986; thresholds and
arithmetic as in OpenCV's `Canny`: Sobel's 3x3 derivatives, of the colour with the largest, and
|dx| + |dy| for the strength.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import number
from latentrt.runtime.pixels import Pixels, as_pixels

if TYPE_CHECKING:
    from PIL import Image

LOW: Final = 100.0
HIGH: Final = 200.0
"""Thresholds of diffusers' examples and the web UI."""
_SHARP: Final = 13573
"""The tangent of 22.5 degrees, times 2**15, as OpenCV rounds it."""

Grid = NDArray[Any]


def canny(image: Pixels | Image.Image, low: float = LOW, high: float = HIGH) -> Pixels:
    """A picture of edges: white lines, one pixel thin, on black; RGB, uint8 [h, w, 3].

    An edge begins where the strength is above `high`, and goes on while it is above `low`. Raises
    `InputError` for what is no picture, and for thresholds below 0 or in the wrong order.
    """
    pixels = as_pixels("image", image)
    lower = number("low", "a number of at least 0", low, 0.0)
    upper = number("high", "a number of at least 0", high, 0.0)
    if lower > upper:
        raise InputError("low", f"at most high, {upper:g}", lower)
    dx, dy = _derivatives(pixels.astype(np.int32))
    strength = np.abs(dx) + np.abs(dy)
    thin = _ridges(strength, dx, dy) & (strength > int(lower))
    edges = _connected(thin, thin & (strength > int(upper)))
    return np.repeat(np.where(edges, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)


def _derivatives(pixels: Grid) -> tuple[Grid, Grid]:
    """Sobel's derivatives [h, w] of the colour in which they are largest; borders repeat."""
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dx = rows[:, 2:] - rows[:, :-2]
    dy = columns[2:] - columns[:-2]
    largest = np.argmax(np.abs(dx) + np.abs(dy), axis=2)[:, :, None]
    across = np.take_along_axis(dx, largest, axis=2)[:, :, 0]
    return across, np.take_along_axis(dy, largest, axis=2)[:, :, 0]


def _ridges(strength: Grid, dx: Grid, dy: Grid) -> Grid:
    """Where the strength is largest across the edge, between the two pixels on either side.

    Of two that are equal, the first is taken.
    """
    padded = np.pad(strength, 1)

    def at(down: int, right: int) -> Grid:
        height, width = strength.shape
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    across, along = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << 15
    shallow = across * _SHARP
    steep = shallow + (across << 16)
    horizontal, vertical = along < shallow, along > steep
    falling = (dx ^ dy) < 0
    rest = ~horizontal & ~vertical
    found = horizontal & (strength > at(0, -1)) & (strength >= at(0, 1))
    found |= vertical & (strength > at(-1, 0)) & (strength >= at(1, 0))
    found |= rest & falling & (strength > at(-1, 1)) & (strength > at(1, -1))
    found |= rest & ~falling & (strength > at(-1, -1)) & (strength > at(1, 1))
    return found


def _connected(candidates: Grid, seeds: Grid) -> Grid:
    """The candidates that a chain of neighbours joins to a seed."""
    height, width = candidates.shape
    found = np.zeros((height + 2, width + 2), bool)
    free = np.pad(candidates, 1)
    waiting = np.flatnonzero(np.pad(seeds, 1))
    flat, open_ = found.reshape(-1), free.reshape(-1)
    flat[waiting] = True
    around = np.array([d * (width + 2) + r for d in (-1, 0, 1) for r in (-1, 0, 1) if d or r])
    while waiting.size:
        near = (waiting[:, None] + around).reshape(-1)
        waiting = np.unique(near[open_[near] & ~flat[near]])
        flat[waiting] = True
    return found[1:-1, 1:-1]
