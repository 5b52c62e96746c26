"""Masks: where a picture is redrawn, and what part of it that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.pixels import Pixels, as_picture, read_image
from latentrt.runtime.size import Size

if TYPE_CHECKING:
    pass

Mask = NDArray[np.uint8]
"""Grey levels, uint8 [h, w]: 255 where a picture is drawn, 0 where it is kept."""
HALF: Final = 128
"""The darkest grey that is drawn where a model takes no greys, as in diffusers."""
_FILLS: Final = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))
"""Radii of the blurs that fill a mask, coarse to fine, and how often each is laid over the last."""


def as_mask(field: str, value: object) -> Mask:
    """A mask as a read-only array of its own; raises `InputError` for what is none.

    Of a picture in colours the brightness counts.
    """
    return as_picture(field, value, mode="L", dtype="uint8")


def read_mask(path: Path) -> Mask:
    """A file's mask; raises `FileError` for a file that is no picture."""
    return as_mask("mask", read_image(path).convert("L"))


def blurred(mask: Mask, radius: float) -> Mask:
    """A mask under a Gaussian blur of `radius` pixels, as Pillow's."""
    if radius == 0:
        return mask
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(radius)))


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a picture in pixels: from the left, top to the right, bottom, those excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @staticmethod
    def around(mask: Mask, padding: int, size: Size) -> Region:
        """The least region with all of a mask that is not black, and `padding` pixels around it.

        It grows to the proportions of `size` where the picture has room.

        Source: diffusers' `VaeImageProcessor.get_crop_region`, which is the web UI's.
        """
        height, width = mask.shape
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        left, right = max(int(columns[0]) - padding, 0), min(int(columns[-1]) + 1 + padding, width)
        top, bottom = max(int(rows[0]) - padding, 0), min(int(rows[-1]) + 1 + padding, height)
        wanted = size.width / size.height
        if (right - left) / (bottom - top) > wanted:
            more = int((right - left) / wanted - (bottom - top))
            top, bottom = _grown(top, bottom, more, height)
        else:
            more = int((bottom - top) * wanted - (right - left))
            left, right = _grown(left, right, more, width)
        return Region(left, top, right, bottom)

    @property
    def size(self) -> Size:
        """Its width and height."""
        return Size(self.right - self.left, self.bottom - self.top)

    def of(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """This part of a picture [h, w, 3], or of a mask [h, w]."""
        return array[self.top : self.bottom, self.left : self.right]


def filled(pixels: Pixels, mask: Mask) -> Pixels:
    """A picture whose drawn part has the colours around it, blurred.

    Blurs of what is kept are laid over each other, from coarse to fine, and that over all.

    Source: the web UI's masked content "fill".
    """
    from PIL import Image, ImageFilter

    kept = Image.fromarray(np.dstack([pixels, 255 - mask])).convert("RGBa")
    over = Image.new("RGBA", kept.size)
    for radius, times in _FILLS:
        layer = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            over.alpha_composite(layer)
    return np.asarray(over.convert("RGB"))


def laid_over(drawn: Pixels, kept: Pixels, mask: Mask) -> Pixels:
    """`drawn` where the mask is white, `kept` where it is black, between them where it is grey."""
    alpha = mask[..., None].astype(np.uint16)
    # Exact at both ends.
    mixed = (drawn * alpha + kept * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)


def _grown(low: int, high: int, more: int, limit: int) -> tuple[int, int]:
    """A range with as many pixels more around it, moved and cut to lie between 0 and `limit`."""
    low -= more // 2
    high += more - more // 2
    if high >= limit:
        low, high = low - (high - limit), limit
    if low < 0:
        low, high = 0, min(high - low, limit)
    return low, high
