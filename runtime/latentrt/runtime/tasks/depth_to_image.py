"""Depth to image: image to image that keeps how far things are away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import all_finite
from latentrt.runtime.pixels import Pixels, as_picture, as_pixels, for_vae_encoder
from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise
from latentrt.runtime.resampling import resample
from latentrt.runtime.schedules.part import Counting, Part, checked_counting, checked_strength
from latentrt.runtime.size import Size
from latentrt.runtime.tasks.image_to_image import STRENGTH
from latentrt.runtime.tasks.task import Task

if TYPE_CHECKING:
    from PIL import Image

    from latentrt.runtime.kit import Kit

Depth = NDArray[np.float32]
"""float32 [h, w] in any unit: larger is nearer, as in MiDaS' maps."""


def as_depth(field: str, value: object) -> Depth:
    """A depth map as a read-only array of its own; raises `InputError` for what is none."""
    # In this mode 16-bit pictures keep their levels.
    depth: Depth = as_picture(field, value, mode="F", dtype="float32")
    if not all_finite(depth):
        raise InputError(field, "finite values", "NaN or infinity")
    return depth


@dataclass(frozen=True, slots=True, eq=False, init=False)
class DepthToImage(Task):
    """Image to image with a depth map, for U-Nets with one channel for it (SD 2 depth).

    `depth` is float32 [h, w], larger where nearer, in any unit and of any size: it is resampled and
    scaled to [-1, 1]. A Pillow image becomes that. The other fields are as in `ImageToImage`.
    Raises `InputError` naming the field that cannot be used.

    Source: diffusers' `StableDiffusionDepth2ImgPipeline`.
    """

    pictures: ClassVar[Mapping[str, int]] = MappingProxyType({"image": 3, "depth": 2})
    image: Pixels
    depth: Depth
    strength: float
    counting: Counting

    def __init__(
        self,
        image: Pixels | Image.Image,
        depth: Depth | Image.Image,
        strength: float = STRENGTH,
        counting: Counting = "diffusers",
    ) -> None:
        object.__setattr__(self, "image", as_pixels("image", image))
        object.__setattr__(self, "depth", as_depth("depth", depth))
        object.__setattr__(self, "strength", checked_strength(strength))
        object.__setattr__(self, "counting", checked_counting(counting))

    @staticmethod
    def channels(latent: int) -> frozenset[int]:
        """One for the depth."""
        del latent
        return frozenset({1})

    def size(self, factor: int) -> Size | None:
        """The picture's own size, rounded down to multiples of `factor`."""
        return Size.within(self.image, factor)

    @property
    def part(self) -> Part:
        """The steps that are taken."""
        return Part(self.strength, self.counting)

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """One run over the lower levels, with the depth as a channel."""
        schedule = kit.schedule(self.part)
        sigma = np.float32(schedule.evaluations[0].sigma)
        encoded = kit.encode(for_vae_encoder(self.image, kit.size))
        _, height, width = kit.latent_shape
        channels = _scaled(resample(self.depth, height, width, "bicubic"))[None]

        def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
            del previous
            latent: Latent = encoded.sample(noise.stream) / np.float32(schedule.data_scale)
            latent += noise.begin(kit.latent_shape) * sigma
            return Entry(latent, channels)

        return (Leg(schedule, kit.denoiser(schedule), enter, kit.latent_shape),)


def _scaled(depth: Depth) -> Depth:
    """From -1 at the farthest to 1 at the nearest; a flat map is 0 throughout."""
    low, high = depth.min(), depth.max()
    if low == high:
        return np.zeros_like(depth)
    return np.float32(2.0) * (depth - low) / (high - low) - np.float32(1.0)
