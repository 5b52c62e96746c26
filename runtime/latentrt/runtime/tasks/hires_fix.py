"""Hires fix: a small picture, made larger, and drawn over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from latentrt.bundle.checks import integer, shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import number
from latentrt.runtime.pixels import for_vae_encoder, resized, to_pixels
from latentrt.runtime.plan import Carry, Entry, Latent, Leg, PictureNoise
from latentrt.runtime.prompts.schedule import Steps
from latentrt.runtime.resampling import Mode, resample
from latentrt.runtime.rows import Evaluation, Need
from latentrt.runtime.schedules.part import Counting, Part, checked_counting, checked_strength
from latentrt.runtime.size import Size
from latentrt.runtime.tasks.task import Task
from latentrt.runtime.tasks.text_to_image import TextToImage
from latentrt.runtime.upscaler import Upscaler

if TYPE_CHECKING:
    from latentrt.runtime.kit import Kit

LATENT: Final[dict[str, Mode]] = {
    "latent": "bilinear",
    "latent_bicubic": "bicubic",
    "latent_nearest": "nearest",
}
"""Ways to make a latent larger, by name."""
LANCZOS: Final = "lanczos"
SCALE: Final = 2.0
STRENGTH: Final = 0.7
"""The web UI's default."""


@dataclass(frozen=True, slots=True, eq=False, init=False)
class HiresFix(Task):
    """Text to image at the request's size, then larger, then image to image at that size.

    - `scale`, from 1 to 8, is what the request's size is multiplied by. The product is rounded to
      what the VAE's factor divides.
    - `strength` and `counting` are as in `ImageToImage`. `steps` are those of the second run, by
      default the request's.
    - `upscaler` "latent", "latent_bicubic" or "latent_nearest" makes the latent larger. "lanczos"
      makes the picture larger. So does the path of an ONNX file such as an ESRGAN's, whose arrays
      are float32 [n, 3, h, w] in [0, 1].

    The second run has noise of the same seed. Raises `InputError` naming the field that cannot be
    used.

    Source: the web UI's "hires. fix".
    """

    scale: float
    strength: float
    counting: Counting
    steps: int | None
    upscaler: str

    def __init__(
        self,
        scale: float = SCALE,
        strength: float = STRENGTH,
        counting: Counting = "diffusers",
        *,
        steps: int | None = None,
        upscaler: str | Path = "latent",
    ) -> None:
        expected = "an integer of at least 1"
        values = {
            "scale": number("hires", "a number from 1 to 8", scale, 1.0, 8.0),
            "strength": checked_strength(strength),
            "counting": checked_counting(counting),
            "steps": None if steps is None else integer("hires_steps", expected, steps, 1),
            "upscaler": _checked_upscaler(upscaler),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def output(self, size: Size, factor: int) -> Size:
        """The request's size times the scale."""
        width, height = (
            max(round(n * self.scale / factor), 1) * factor for n in (size.width, size.height)
        )
        return Size(width, height)

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """Two runs, the second at the larger size."""
        large = kit.at(self.output(kit.size, kit.factor))
        schedule = large.schedule(Part(self.strength, self.counting), steps=self.steps)
        scale, sigma = np.float32(schedule.data_scale), np.float32(schedule.evaluations[0].sigma)
        carry, needs = self._upscaling(kit, large)
        first = TextToImage().legs(kit)
        before = first[0].schedule.steps
        steps = Steps(schedule.steps, earlier=before)

        def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
            assert previous is not None
            latent: Latent = previous / scale
            latent += noise.begin(large.latent_shape) * sigma
            return Entry(latent)

        second = Leg(
            schedule,
            large.denoiser(schedule, steps),
            enter,
            large.latent_shape,
            carry=carry,
            needed=needs,
            anew=True,
        )
        return (*first, second)

    def _upscaling(self, kit: Kit, large: Kit) -> tuple[Carry, tuple[Need, ...]]:
        """What makes the first run's latent larger, and the engines for that."""
        mode = LATENT.get(self.upscaler)
        if mode is not None:

            def resampled(latent: Latent, noise: PictureNoise) -> Evaluation[Latent]:
                del noise
                return resample(latent, *large.latent_shape[1:], mode)
                yield []

            return resampled, ()
        network = None if self.upscaler == LANCZOS else Upscaler.open(Path(self.upscaler))

        def redrawn(latent: Latent, noise: PictureNoise) -> Evaluation[Latent]:
            pixels = to_pixels((yield from kit.vae.decode(latent)).pixels)
            if network is not None:
                pixels = yield from network(pixels)
            pixels = resized(pixels, large.size)
            posterior = yield from large.vae.encode(for_vae_encoder(pixels, large.size))
            return posterior.sample(noise.stream)

        needs = (
            kit.vae.decoder_need(*kit.latent_shape[1:]),
            large.vae.encoder_need(*large.latent_shape[1:]),
        )
        if network is not None:
            needs = (*needs, network.need(kit.size.height, kit.size.width))
        return redrawn, needs


def _checked_upscaler(value: object) -> str:
    found = str(value) if isinstance(value, str | Path) else ""
    if found in LATENT or found == LANCZOS or found.endswith(".onnx"):
        return found
    names = ", ".join((*LATENT, LANCZOS))
    raise InputError("upscaler", f"{names} or the path of an .onnx file", shown(value))
