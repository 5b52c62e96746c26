"""InstructPix2Pix: a picture changed as a prompt says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import number
from latentrt.runtime.denoiser import GuidedDenoiser, example_row, model_inputs
from latentrt.runtime.guidance import MAX_SCALE
from latentrt.runtime.pixels import Pixels, as_pixels, for_vae_encoder
from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise
from latentrt.runtime.rows import Evaluation, Need, Row
from latentrt.runtime.samplers.denoise import Denoise
from latentrt.runtime.schedules.schedule import Position, Schedule
from latentrt.runtime.size import Size
from latentrt.runtime.tasks.task import Task

if TYPE_CHECKING:
    from PIL import Image

    from latentrt.runtime.kit import Kit

IMAGE_GUIDANCE: Final = 1.5
"""How much a picture stays as it is by default, as in diffusers."""


@dataclass(frozen=True, slots=True, eq=False, init=False)
class InstructPix2Pix(Task):
    """Changes a picture as the prompt says, with a U-Net made for that (8 channels).

    `image` is RGB, uint8 [h, w, 3], or a Pillow image. `image_guidance`, from 1 up, is how far the
    result stays with it, beside the request's guidance scale for the prompt. Without guidance, at a
    scale of 1 or less, it has no effect. Raises `InputError` naming the field that cannot be used.

    Source: arXiv:2211.09800; diffusers' `StableDiffusionInstructPix2PixPipeline`.
    """

    pictures: ClassVar[Mapping[str, int]] = MappingProxyType({"image": 3})
    image: Pixels
    image_guidance: float

    def __init__(self, image: Pixels | Image.Image, image_guidance: float = IMAGE_GUIDANCE) -> None:
        expected = f"a number from 1 to {MAX_SCALE:g}"
        scale = number("image_guidance", expected, image_guidance, 1.0, MAX_SCALE)
        object.__setattr__(self, "image_guidance", scale)
        object.__setattr__(self, "image", as_pixels("image", image))

    @staticmethod
    def channels(latent: int) -> frozenset[int]:
        """Those of a latent, the picture's."""
        return frozenset({latent})

    def size(self, factor: int) -> Size | None:
        """The picture's own size, rounded down to multiples of `factor`."""
        return Size.within(self.image, factor)

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """One run over all levels, with the picture as channels."""
        if kit.request.composed:
            count = f"{len(kit.request.composed)} prompts"
            raise InputError("composed", "none with instruct_pix2pix", count)
        if len(kit.request.prompts) > 1:
            raise InputError("prompt", "one without AND with instruct_pix2pix", "several")
        schedule = kit.schedule()
        # The mean, which diffusers does not scale.
        channels = kit.encode(for_vae_encoder(self.image, kit.size)).mean

        def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
            del previous
            latent = noise.begin(kit.latent_shape) * np.float32(schedule.init_scale)
            return Entry(latent, channels)

        denoiser = PictureGuidedDenoiser(kit.denoiser(schedule), self.image_guidance)
        return (Leg(schedule, denoiser, enter, kit.latent_shape),)


@dataclass(frozen=True, slots=True, eq=False)
class PictureGuidedDenoiser:
    """Guidance towards a prompt and towards a picture, which the channels are.

    `guided` has the prompts and the guidance of the request; `scale` is that of the picture.
    """

    guided: GuidedDenoiser
    scale: float

    def __call__(
        self, asked: Denoise, at: Position, channels: NDArray[np.float32] | None = None
    ) -> Evaluation[NDArray[np.float32]]:
        """Evaluate the prompt with the picture, and neither prompt nor picture with it.

        Source: arXiv:2211.09800, eq. 3.
        """
        assert channels is not None
        scale = self.guided.scale_at(asked.sigma, at)
        if scale <= 1.0:
            return (yield from self.guided(asked, at, channels))
        unet, negative = self.guided.unet, self.guided.negative
        (prompt,) = self.guided.prompts
        assert negative is not None
        shown = model_inputs(asked, channels)
        hidden = model_inputs(asked, np.zeros_like(channels))
        answers = yield [
            Row(unet, shown, prompt.at(at.step)),
            Row(unet, shown, negative.at(at.step), negative=True),
            Row(unet, hidden, negative.at(at.step), negative=True),
        ]
        text, image, nothing = (answer["model_output"] for answer in answers)
        guided: NDArray[np.float32] = (text - image) * scale
        guided += (image - nothing) * self.scale
        guided += nothing
        return guided

    def of(self, image: int) -> PictureGuidedDenoiser:
        """The same for one of the request's pictures."""
        return replace(self, guided=self.guided.of(image))

    def needs(self, schedule: Schedule, shape: tuple[int, int]) -> frozenset[Need]:
        """The U-Net at three rows where a level is guided, at one elsewhere."""
        scales = self.guided.scales(schedule)
        row = example_row(self.guided.unet, shape, self.guided.prompts[0].constant)
        return frozenset(Need.of(row, 3 if scale > 1.0 else 1) for scale in scales)
