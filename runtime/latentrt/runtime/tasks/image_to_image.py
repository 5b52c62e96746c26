"""Image to image: from a picture, as far as a strength says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import json_object, number
from latentrt.runtime.pixels import Pixels, as_pixels, pixels_sha256
from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise
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
    and at most 1, is the share of the steps that are taken: `int(steps * strength)` of them, from
    the level at which they begin. Raises `InputError` naming the field that cannot be used.

    Source: arXiv:2108.01073; diffusers' `StableDiffusionImg2ImgPipeline`.
    """

    image: Pixels
    strength: float

    def __init__(self, image: Pixels | Image.Image, strength: float = STRENGTH) -> None:
        expected = "a number above 0 and at most 1"
        share = number("strength", expected, strength, 0.0, 1.0)
        if share == 0.0:
            raise InputError("strength", expected, share)
        object.__setattr__(self, "image", as_pixels("image", image))
        object.__setattr__(self, "strength", share)

    def __eq__(self, other: object) -> bool:
        """Whether two begin with the same pixels at the same strength."""
        if not isinstance(other, ImageToImage):
            return NotImplemented
        return self.strength == other.strength and np.array_equal(self.image, other.image)

    def __hash__(self) -> int:
        return hash((self.strength, pixels_sha256(self.image)))

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageToImage, (self.image, self.strength)

    def size(self, factor: int) -> Size | None:
        """The picture's own size, rounded down to multiples of `factor`."""
        height, width = (max(n // factor, 1) * factor for n in self.image.shape[:2])
        return Size(width, height)

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """One run over the lower levels, which the encoded picture enters with noise."""
        schedule = kit.schedule(self.strength)
        sigma = np.float32(schedule.evaluations[0].sigma)
        encoded = kit.encode(self.image)

        def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
            del previous
            # As in diffusers, the posterior's noise is drawn before that of the latent.
            latent: Latent = encoded.sample(noise.stream) / np.float32(schedule.data_scale)
            latent += noise.begin(kit.latent_shape) * sigma
            return Entry(latent)

        return (Leg(schedule, kit.denoiser(schedule), enter, kit.latent_shape),)

    def to_json(self) -> dict[str, Any]:
        """The picture's SHA-256, and the strength."""
        return {"image": pixels_sha256(self.image), "strength": self.strength}

    @classmethod
    def from_json(
        cls, value: Mapping[str, Any], attachments: Sequence[NDArray[Any]]
    ) -> ImageToImage:
        """From `to_json`; the picture is the attachment with that hash. Raises `InputError`."""
        found = json_object("task", value, ("image", "strength"))
        wanted = found.get("image")
        for each in attachments:
            if each.ndim == 3 and pixels_sha256(each) == wanted:
                return cls(each, found.get("strength", STRENGTH))
        expected = f"the picture that was begun with (SHA-256 {shown(wanted)})"
        raise InputError("image", expected, "another" if attachments else "none")
