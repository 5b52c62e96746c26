"""Recognises the shape in a picture from its pixels.

It finds the colour of the background, and the colour, position and outline of the largest shape.
Each answer has a limit. Past it the answer is None: a smear or a grey picture counts as wrong, not
as the nearest shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from scenes import PALETTE, POSITIONS, SHAPES, SIDE, Figure, draw_mask

Mask: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float32]

COLOUR_LIMIT: Final = 0.12
"""How far (Oklab) a colour may be from the palette's; the closest two of it are 0.18 apart."""
POSITION_LIMIT: Final = 16.0
"""How far, in pixels, a shape may be from a position; the closest two of them are 29 apart."""
OVERLAP_LIMITS: Final = {
    "circle": 0.86,
    "square": 0.86,
    "triangle": 0.8,
    "star": 0.78,
    "ring": 0.78,
    "cross": 0.78,
}
"""The least intersection over union of a shape with its ideal.

Wobbles cost thin shapes more; a diamond has 0.84 in common with a circle, a star of four points
0.77 with a cross.
"""
BORDER_LIMIT: Final = 0.75
"""The least share of the picture's border that one colour must hold to be the background."""
AREA_LIMIT: Final = 200
"""The least area of a shape in pixels; the smallest star drawn has 430."""

_ALIKE: Final = 0.09  # Oklab: half the palette's least distance
_BORDER: Final = 4  # pixels
_REACH: Final = 3  # pixels: soft edges and the tips of a star lie outside a shape's core

_NAMES: Final = tuple(PALETTE)
# sRGB byte to linear light, and linear light to Oklab (bottosson.github.io/posts/oklab).
_BYTES: Final = np.arange(256) / 255
_LINEAR: Final = np.where(
    _BYTES <= 0.04045, _BYTES / 12.92, ((_BYTES + 0.055) / 1.055) ** 2.4
).astype(np.float32)
_TO_CONES: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_OKLAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)


def _oklab(pixels: npt.NDArray[np.uint8]) -> Floats:
    return np.cbrt(_LINEAR[pixels] @ _TO_CONES.T) @ _TO_OKLAB.T


_PALETTE: Final = _oklab(np.array(list(PALETTE.values()), np.uint8))


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a picture shows; None where nothing that `scenes` draws is close enough."""

    background: str | None
    colour: str | None
    position: str | None
    shape: str | None
    area: int
    """Pixels of the largest shape; 0 where there is none."""
    overlap: float
    """Intersection over union of the largest shape and the ideal that fits it best, 0 to 1."""

    def __str__(self) -> str:
        if not self.area:
            return f"no shape on {self.background or 'no single'} background"
        colour, shape = self.colour or "no known colour", self.shape or "no known shape"
        return (
            f"{colour} {shape} at {self.position or 'no known place'}"
            f" on {self.background or 'no single'} background"
            f" ({self.area} px, overlap {self.overlap:.2f})"
        )


def _grow(mask: Mask, pixels: int = 1) -> Mask:
    """The pixels within a square of `pixels` around those of the mask."""
    grown = mask
    for _ in range(pixels):
        wide = grown.copy()
        wide[:, 1:] |= grown[:, :-1]
        wide[:, :-1] |= grown[:, 1:]
        grown = wide.copy()
        grown[1:] |= wide[:-1]
        grown[:-1] |= wide[1:]
    return grown


def _opened(mask: Mask) -> Mask:
    """The mask without what is under three pixels wide: specks, streaks, smooth edges."""
    return _grow(~_grow(~mask)) & mask


def _components(mask: Mask) -> npt.NDArray[np.intp]:
    """Number the 4-connected parts of a mask [h, w], bool: intp [h, w], 0 outside, others > 0.

    Runs along rows are the nodes; each round hooks touching trees to the lower of their roots.
    """
    starts = mask.copy()
    starts[:, 1:] &= ~mask[:, :-1]
    runs = np.where(mask, np.cumsum(starts).reshape(mask.shape), 0)
    touching = mask[1:] & mask[:-1]
    above, below = runs[:-1][touching], runs[1:][touching]
    root = np.arange(int(runs.max(initial=0)) + 1)
    while True:
        a, b = root[above], root[below]
        if np.array_equal(a, b):
            return root[runs]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root, root[root]):
            root = root[root]


def _box(mask: Mask) -> tuple[int, int, int, int]:
    """The edges of what the mask holds: left, top, right, bottom in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _parts(solid: Mask) -> list[Mask]:
    """The connected parts of a mask, gaps of two pixels bridged, that are no specks."""
    labels = np.where(solid, _components(_grow(solid)), 0)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return [labels == label for label in np.flatnonzero(areas >= AREA_LIMIT)]


def _extent(mask: Mask) -> float:
    # Area alone would rank a small circle near a large star, the box alone a streak above both.
    left, top, right, bottom = _box(mask)
    return float(np.count_nonzero(mask) * (right - left) * (bottom - top))


def _distance(values: npt.NDArray[Any], to: npt.NDArray[Any]) -> Floats:
    apart = values - to.astype(np.float32)
    return np.sqrt(np.einsum("...c,...c->...", apart, apart))  # norm(axis=-1) takes thrice as long


def _largest(
    pixels: npt.NDArray[np.uint8], shades: Floats, nearest: npt.NDArray[np.intp], ground: int
) -> Mask | None:
    """The mask of the largest shape: one colour, edges at half way to the background's."""
    cores = [
        part
        for colour in np.flatnonzero(np.bincount(nearest.ravel()) >= AREA_LIMIT)
        if colour != ground
        for part in _parts(_opened(nearest == colour))
    ]
    if not cores:
        return None
    core = max(cores, key=_extent)
    # A shape whose colour lies between two of the palette is in pieces so far: put them together.
    alike = _distance(shades, np.median(shades[core], 0)) < _ALIKE
    alike = _opened(alike & (nearest != ground) | core)
    labels = _components(_grow(alike))
    core = core | alike & (labels == np.bincount(labels[core]).argmax())
    # Between shape and background lie mixtures, which may look like a third colour.
    inside, outside = np.median(pixels[core], 0), np.median(pixels[nearest == ground], 0)
    closer = _distance(pixels, inside) < _distance(pixels, outside)
    return core | closer & _grow(core, _REACH)


def _drawn(shape: str, x: float, y: float, radius: float) -> Mask:
    figure = Figure(shape, "", "", "", (x, y), radius)
    return np.asarray(draw_mask(figure, scale=4).reduce(4)) > 127


def _moments(mask: Mask) -> tuple[float, float, float]:
    """Centre of mass x and y, and the root of the area, in pixels."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5, len(rows) ** 0.5


def _unit(shape: str) -> tuple[float, float, float]:
    """The moments of a shape drawn about the origin with radius 1."""
    middle, radius = SIDE / 2, SIDE / 2.5
    x, y, size = _moments(_drawn(shape, middle, middle, radius))
    return (x - middle) / radius, (y - middle) / radius, size / radius


_UNITS: Final = {shape: _unit(shape) for shape in SHAPES}


def _overlap(mask: Mask, shape: str) -> float:
    """Intersection over union of a mask and the shape of the same area and centre of mass.

    Unlike a fit to the box, it does not change much when the tips of a star are lost.
    """
    x, y, size = _moments(mask)
    right, down, unit = _UNITS[shape]
    radius = size / unit
    template = _drawn(shape, x - radius * right, y - radius * down, radius)
    return float(np.count_nonzero(mask & template) / np.count_nonzero(mask | template))


def _colour(shade: Floats) -> str | None:
    distances = _distance(_PALETTE, shade)
    return _NAMES[distances.argmin()] if distances.min() <= COLOUR_LIMIT else None


def recognise(picture: Image.Image) -> Recognised:
    """What a square picture shows; one that is not 128 x 128 is scaled to it.

    Raises ValueError where the picture is not square.
    """
    if picture.width != picture.height:
        raise ValueError(f"picture: expected a square, got {picture.width} x {picture.height}")
    picture = picture.convert("RGB")
    if picture.width != SIDE:
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(picture.filter(ImageFilter.MedianFilter(3)))
    shades = _oklab(pixels)
    nearest = ((_PALETTE**2).sum(1) - 2 * shades @ _PALETTE.T).argmin(-1)

    edge = np.ones((SIDE, SIDE), bool)
    edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    counts = np.bincount(nearest[edge])
    ground = int(counts.argmax())
    whole = counts[ground] >= BORDER_LIMIT * np.count_nonzero(edge)
    background = _colour(np.median(shades[edge & (nearest == ground)], 0)) if whole else None

    mask = _largest(pixels, shades, nearest, ground)
    if mask is None:
        return Recognised(background, None, None, None, 0, 0.0)
    left, top, right, bottom = _box(mask)
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    away = {p: float(np.linalg.norm(middle - anchor)) for p, anchor in POSITIONS.items()}
    position = min(away, key=away.__getitem__)
    overlaps = {shape: _overlap(mask, shape) for shape in SHAPES}
    shape = max(overlaps, key=overlaps.__getitem__)
    return Recognised(
        background=background,
        colour=_colour(np.median(shades[~_grow(~mask)], 0)),  # without the edge's mixtures
        position=position if away[position] <= POSITION_LIMIT else None,
        shape=shape if overlaps[shape] >= OVERLAP_LIMITS[shape] else None,
        area=int(np.count_nonzero(mask)),
        overlap=overlaps[shape],
    )
