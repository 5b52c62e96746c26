"""Image to image: from a picture, as far as a strength says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from latentrt.runtime.pixels import Pixels, as_pixels, for_vae_encoder
from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise
from latentrt.runtime.schedules.part import Counting, Part, checked_counting, checked_strength
from latentrt.runtime.size import Size
from latentrt.runtime.tasks.task import Task

if TYPE_CHECKING:
    from PIL import Image

    from latentrt.runtime.kit import Kit

STRENGTH = 0.8
"""How much of the steps is taken by default, as in diffusers."""


@dataclass(frozen=True, slots=True, eq=False, init=False)
class ImageToImage(Task):
    """Begins with a picture that is encoded and made noisy, instead of noise alone.

    `image` is RGB, uint8 [h, w, 3], or a Pillow image, which becomes that. It is resized to the
    request's size; without one, to its own in multiples of the VAE's factor. `strength`, above 0
    and at most 1, is the share of the steps that are taken, those at the lower levels; `counting`
    says how many those are, as in `Part`. Raises `InputError` naming the field that cannot be used.

    Source: arXiv:2108.01073; diffusers' `StableDiffusionImg2ImgPipeline`.
    """

    pictures: ClassVar[Mapping[str, int]] = MappingProxyType({"image": 3})
    image: Pixels
    strength: float
    counting: Counting

    def __init__(
        self,
        image: Pixels | Image.Image,
        strength: float = STRENGTH,
        counting: Counting = "diffusers",
    ) -> None:
        object.__setattr__(self, "counting", checked_counting(counting))
        object.__setattr__(self, "strength", checked_strength(strength))
        object.__setattr__(self, "image", as_pixels("image", image))

    def size(self, factor: int) -> Size | None:
        """The picture's own size, rounded down to multiples of `factor`."""
        return Size.within(self.image, factor)

    @property
    def part(self) -> Part:
        """The steps that are taken."""
        return Part(self.strength, self.counting)

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """One run over the lower levels, which the encoded picture enters with noise."""
        schedule = kit.schedule(self.part)
        sigma = np.float32(schedule.evaluations[0].sigma)
        encoded = kit.encode(for_vae_encoder(self.image, kit.size))

        def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
            del previous
            # As in diffusers, the posterior's noise is drawn before that of the latent.
            latent: Latent = encoded.sample(noise.stream) / np.float32(schedule.data_scale)
            latent += noise.begin(kit.latent_shape) * sigma
            return Entry(latent)

        return (Leg(schedule, kit.denoiser(schedule), enter, kit.latent_shape),)
