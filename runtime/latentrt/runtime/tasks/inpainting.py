"""Inpainting: a picture redrawn where a mask is white."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import numpy as np

from latentrt.bundle.checks import integer
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import number, one_of
from latentrt.runtime.masks import HALF, Mask, Region, as_mask, blurred, filled, laid_over
from latentrt.runtime.pixels import Pixels, as_pixels, for_vae_encoder, resized
from latentrt.runtime.plan import Entry, Keep, Latent, Leg, PictureNoise
from latentrt.runtime.schedules.part import Counting, Part, checked_counting, checked_strength
from latentrt.runtime.size import LARGEST, Size
from latentrt.runtime.tasks.task import Task

if TYPE_CHECKING:
    from PIL import Image

    from latentrt.runtime.kit import Kit

Fill = Literal["original", "blur", "noise", "nothing"]
FILLS: Final[tuple[Fill, ...]] = ("original", "blur", "noise", "nothing")
STRENGTH: Final = 1.0
"""How much of the steps is taken by default, as in diffusers."""


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Inpainting(Task):
    """Redraws a picture where a mask is white, and keeps it where the mask is black.

    `image` is RGB, uint8 [h, w, 3], `mask` grey levels, uint8 [h, w], of the same size; Pillow
    images become these. Without a size in the request the picture has its own, in multiples of the
    VAE's factor. A U-Net made for inpainting takes the mask as a channel. With any other U-Net the
    known region is put back at every step.

    - `strength` and `counting` are as in `ImageToImage`; at strength 1 a picture begins with noise.
    - `mask_invert` exchanges white and black.
    - `mask_blur` is the radius in pixels of a blur.
    - `mask_soft` lets a latent be partly known where the mask is grey. Otherwise grey counts as
      black or white. A U-Net made for inpainting takes no greys.
    - `mask_fill` is what the white part begins with. That is the "original", its surroundings in a
      "blur", "noise", or "nothing" (zeros).
    - `only_masked` draws the white part alone, at the full size, and puts it back into the picture.
      Its number is that of the pixels around the part that are drawn too.
    - `overlay` lays the original over what was drawn: black pixels keep their value.

    Raises `InputError` naming the field that cannot be used.

    Source: diffusers' `StableDiffusionInpaintPipeline`; arXiv:2201.09865 for known regions.
    """

    pictures: ClassVar[Mapping[str, int]] = MappingProxyType({"image": 3, "mask": 2})
    image: Pixels
    mask: Mask
    strength: float
    counting: Counting
    mask_invert: bool
    mask_blur: float
    mask_soft: bool
    mask_fill: Fill
    only_masked: int | None
    overlay: bool

    def __init__(
        self,
        image: Pixels | Image.Image,
        mask: Mask | Image.Image,
        strength: float = STRENGTH,
        counting: Counting = "diffusers",
        *,
        mask_invert: bool = False,
        mask_blur: float = 0.0,
        mask_soft: bool = False,
        mask_fill: Fill = "original",
        only_masked: int | None = None,
        overlay: bool = True,
    ) -> None:
        values = {
            "image": as_pixels("image", image),
            "mask": as_mask("mask", mask),
            "strength": checked_strength(strength),
            "counting": checked_counting(counting),
            "mask_invert": bool(mask_invert),
            "mask_blur": number("mask_blur", "a radius from 0 to 1000", mask_blur, 0.0, 1000.0),
            "mask_soft": bool(mask_soft),
            "mask_fill": one_of("mask_fill", mask_fill, FILLS),
            "only_masked": _checked_padding(only_masked),
            "overlay": bool(overlay),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.mask.shape != self.image.shape[:2]:
            sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (self.image, self.mask)]
            raise InputError("mask", f"{sizes[0]}, the size of the image", sizes[1])
        if not self._drawn.any():
            wanted, got = ("black", "white") if mask_invert else ("white", "black")
            raise InputError("mask", f"{wanted} where the picture is redrawn", f"{got} alone")

    @staticmethod
    def channels(latent: int) -> frozenset[int]:
        """None, or a mask and a masked latent."""
        return frozenset({0, 1 + latent})

    def size(self, factor: int) -> Size | None:
        """The picture's own size, rounded down to multiples of `factor`; any where it is cut."""
        return None if self.only_masked is not None else Size.within(self.image, factor)

    @property
    def part(self) -> Part:
        """The steps that are taken."""
        return Part(self.strength, self.counting)

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """One run over the lower levels; what is known enters as channels, or is put back."""
        schedule = kit.schedule(self.part)
        scale, sigma = np.float32(schedule.data_scale), np.float32(schedule.evaluations[0].sigma)
        image, mask = self._at(kit.size)
        hard = np.where(mask < HALF, np.uint8(0), np.uint8(255))
        factor = kit.size.height // kit.latent_shape[1]
        drawn = _smaller(mask if self.mask_soft else hard, factor, soft=self.mask_soft)
        with_channels = kit.extra_channels > 0
        pixels = for_vae_encoder(image, kit.size)
        # Of noise alone nothing but the known region is needed, where the U-Net knows no masks.
        begun = self.strength < 1.0 or not with_channels
        encoded = kit.encode(pixels) if begun else None
        masked = kit.encode(pixels * (hard == 0)) if with_channels else None

        def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
            del previous
            # As in diffusers: posterior, noise, posterior of the masked picture, drawn in any case.
            known = None if encoded is None else encoded.sample(noise.stream) / scale
            start = noise.begin(kit.latent_shape)
            if masked is None:
                noise.stream.normal(kit.latent_shape)
                channels = None
            else:
                hidden = masked.sample(noise.stream)
                channels = np.concatenate([_smaller(hard, factor, soft=False), hidden])
            if self.strength == 1.0 or known is None:
                latent: Latent = start * np.float32(schedule.init_scale)
            else:
                latent = start * sigma
                latent += self._filled(known, drawn, start)
            keep = None if with_channels or known is None else Keep(known, start, drawn)
            return Entry(latent, channels, keep)

        return (Leg(schedule, kit.denoiser(schedule), enter, kit.latent_shape),)

    def finish(self, pixels: Pixels) -> Pixels:
        """The picture with what was drawn in its place, and the original over it."""
        mask = self._blurred
        if self.only_masked is None:
            if not self.overlay:
                return pixels
            size = Size.within(pixels, 1)
            return laid_over(pixels, resized(self.image, size), resized(mask, size))
        region = Region.around(mask, self.only_masked, Size.within(pixels, 1))
        picture = self.image.copy()
        part, drawn = region.of(picture), resized(pixels, region.size)
        part[:] = laid_over(drawn, part, region.of(mask)) if self.overlay else drawn
        return picture

    def of_control(self, pixels: Pixels, size: Size) -> Pixels:
        """The masked part alone, where that alone is drawn.

        Source: diffusers' `StableDiffusionControlNetInpaintPipeline`, `padding_mask_crop`.
        """
        if self.only_masked is None:
            return pixels
        whole = resized(pixels, Size.within(self.image, 1))
        return Region.around(self._blurred, self.only_masked, size).of(whole)

    @property
    def _drawn(self) -> Mask:
        return 255 - self.mask if self.mask_invert else self.mask

    @property
    def _blurred(self) -> Mask:
        return blurred(self._drawn, self.mask_blur)

    def _at(self, size: Size) -> tuple[Pixels, Mask]:
        """What is drawn, at a size: of the picture, or of its masked part."""
        image, mask = self.image, self._blurred
        if self.only_masked is not None:
            region = Region.around(mask, self.only_masked, size)
            image, mask = region.of(image), region.of(mask)
        image, mask = resized(image, size), resized(mask, size)
        return (filled(image, mask), mask) if self.mask_fill == "blur" else (image, mask)

    def _filled(self, known: Latent, drawn: Latent, noise: Latent) -> Latent:
        """What the latent begins with beside its noise."""
        if self.mask_fill in ("original", "blur"):
            return known
        hidden: Latent = known * drawn
        begun: Latent = known - hidden
        if self.mask_fill == "noise":
            begun += noise * drawn
        return begun


def _smaller(mask: Mask, factor: int, *, soft: bool) -> Latent:
    """A mask at the size of latents, float32 [1, h, w] from 0 to 1: its averages, or every n-th."""
    if not soft:
        return mask[None, ::factor, ::factor].astype(np.float32) / np.float32(255.0)
    height, width = (n // factor for n in mask.shape)
    blocks = mask.reshape(height, factor, width, factor).mean(axis=(1, 3), dtype=np.float32)
    return blocks[None] / np.float32(255.0)


def _checked_padding(value: object) -> int | None:
    if value is None:
        return None
    return integer("only_masked", f"a number of pixels from 0 to {LARGEST}", value, 0, LARGEST)
