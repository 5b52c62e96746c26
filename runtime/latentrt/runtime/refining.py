"""The last leg of a plan, drawn by another model than the request's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import Manifest
from latentrt.runtime.kit import Kit, unet_channels
from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise
from latentrt.runtime.prompts.schedule import Steps
from latentrt.runtime.request import Request
from latentrt.runtime.schedules import Schedule
from latentrt.runtime.tasks import ImageToImage, TextToImage, name_of


def check_refiner(request: Request, own: Manifest, its: Manifest) -> None:
    """Raise `InputError` for a refiner of other latents, and for a task that has none.

    `own` is the manifest of the request's model, `its` the refiner's.
    """
    if not isinstance(request.task, TextToImage | ImageToImage):
        expected = "text_to_image or image_to_image with a refiner"
        raise InputError("task", expected, name_of(request.task))
    if (own.latent_channels, own.vae_scaling) != (its.latent_channels, its.vae_scaling):
        expected = f"a model of latents scaled by {own.vae_scaling:g}, as {own.source}'s"
        raise InputError("refiner", expected, f"{its.source}, scaled by {its.vae_scaling:g}")
    if unet_channels(its) != its.latent_channels:
        got = f"{its.source}, whose U-Net takes {unet_channels(its)}"
        raise InputError("refiner", f"a U-Net of {its.latent_channels} channels", got)


def last_leg(kit: Kit, before: Schedule, below: int | None) -> Leg:
    """The steps at timesteps `below` one, by the refiner's kit; `before` are those behind them."""
    own = {"weights": (), "refiner": None, "clip_skip": 0, "latents": None}
    kit = replace(kit, request=kit.request.with_values(**own), above=None)
    kit.conditioner.check(kit.request)
    schedule = kit.schedule(replace(kit.request.task.part, below=below))
    taken = before.steps
    steps = Steps(taken + schedule.steps, taken)

    def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
        del noise
        assert previous is not None
        return Entry(previous / np.float32(before.data_scale))

    return Leg(schedule, kit.denoiser(schedule, steps), enter, kit.latent_shape)
