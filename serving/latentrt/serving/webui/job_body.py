"""A web UI's request as a job's body: the same picture in other words."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import ValidationError

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.catalogue import resolve_sampler, resolve_schedule
from latentrt.runtime.size import Size
from latentrt.serving.bodies import (
    GuidanceBody,
    JobBody,
    RefinerBody,
    SamplingBody,
    TaskBody,
    TextToImageBody,
)
from latentrt.serving.shelf import Shelf
from latentrt.serving.webui.bodies import GenerationBody, Img2ImgBody, Txt2ImgBody, refused
from latentrt.serving.webui.checkpoints import model_named, skips_layers
from latentrt.serving.webui.controls import controls_of
from latentrt.serving.webui.options import WebOptions
from latentrt.serving.webui.task_body import FACTOR, hires, redrawn

_SIDE: Final = 512
"""The web UI's width or height where only the other is given."""
_SEEDS: Final = (1 << 32) - 2
_WITH_ETA: Final = frozenset(
    {"ddim", "dpm2_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "euler_ancestral"}
)
"""Samplers with a share of fresh noise; elsewhere the web UI does not read `eta`."""
_AUTOMATIC: Final[Mapping[str, str]] = {
    "ddim": "leading",
    "dpm2": "karras",
    "dpm2_ancestral": "karras",
    "dpmpp_2m": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2s": "karras",
    "dpmpp_3m_sde": "exponential",
    "dpmpp_sde": "karras",
    "euler": "linspace",
    "euler_ancestral": "linspace",
    "heun": "linspace",
    "lms": "linspace",
    "plms": "leading",
    "unipc": "linspace",
}
"""What "Automatic" is for each sampler of the web UI."""
_FORMATS: Final[Mapping[str, Literal["png", "jpeg", "webp"]]] = {
    "png": "png",
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "webp": "webp",
}


def job_body(body: GenerationBody, options: WebOptions, shelf: Shelf) -> JobBody:
    """The job of a request under a client's options. It reads pictures: not for an event loop.

    Its seeds are chosen where the request leaves them open. Raises `InputError` naming the field
    that cannot be used.
    """
    try:
        return _job_body(body, options, shelf)
    except ValidationError as error:
        raise refused(error) from None


def _job_body(body: GenerationBody, options: WebOptions, shelf: Shelf) -> JobBody:
    body.check()
    options = options.changed(body.override_settings)
    size = _size(body)
    default = ""
    task: TaskBody = TextToImageBody()
    if isinstance(body, Img2ImgBody):
        default = body.init_images[0]
        task = redrawn(body, size)
    elif isinstance(body, Txt2ImgBody) and body.enable_hr:
        task = hires(body, size)
    model = model_named(shelf, options.sd_model_checkpoint)
    skipped = options.CLIP_stop_at_last_layers - 1
    varied = body.subseed_strength > 0
    return JobBody(
        prompt=body.prompt,
        model=model,
        negative_prompt=body.negative_prompt or None,
        task=task,
        size=None if size is None else str(size),
        num_images=body.count,
        seed=_seed(body.seed),
        sampling=_sampling(body),
        guidance=_guidance(body, options),
        clip_skip=skipped if skipped and skips_layers(shelf, model) else 0,
        generator="torch" if options.randn_source == "CPU" else "torch-cuda",
        controls=controls_of(body, shelf, size, default),
        refiner=_refiner(body, shelf),
        subseed=_seed(body.subseed) if varied else None,
        subseed_strength=body.subseed_strength,
        fast=options.fast,
        format=_FORMATS[options.samples_format],
        quality=options.jpeg_quality,
        previews=True,
    )


def _seed(given: int) -> int:
    return secrets.randbelow(_SEEDS) if given == -1 else given


def _size(body: GenerationBody) -> Size | None:
    """The size in multiples of the latents'; None where neither side is given."""
    if body.width is None and body.height is None:
        return None
    sides = (n // FACTOR * FACTOR for n in (body.width or _SIDE, body.height or _SIDE))
    return Size(*sides)


def _guidance(body: GenerationBody, options: WebOptions) -> GuidanceBody:
    """Guidance, without the early steps that the web UI leaves unguided.

    Source: `CFGDenoiser` of the web UI: step / steps <= skip_early_cond.
    """
    skipped = options.skip_early_cond
    unguided = [step / body.steps <= skipped for step in range(body.steps)]
    first = sum(unguided) if skipped else 0
    if first >= body.steps:
        return GuidanceBody(scale=min(body.cfg_scale, 1.0))
    # Half a step more: a product that is rounded must not fall below the step.
    return GuidanceBody(scale=body.cfg_scale, start=(first + 0.5) / body.steps if first else 0.0)


def _sampling(body: GenerationBody) -> SamplingBody:
    """The sampler with the schedule that the web UI takes with it."""
    sampler, named = resolve_sampler(body.sampler)
    asked = resolve_schedule(body.scheduler) if body.scheduler else None
    return SamplingBody(
        sampler=sampler,
        schedule=asked or named or _AUTOMATIC.get(sampler),
        steps=body.steps,
        eta=body.eta if sampler in _WITH_ETA else None,
        brownian=sampler.endswith("_sde") and body.eta != 0,
    )


def _refiner(body: GenerationBody, shelf: Shelf) -> RefinerBody | None:
    if body.refiner_checkpoint in ("", "None", "none") or body.refiner_switch_at == 1:
        return None
    if body.refiner_switch_at == 0:
        raise InputError("refiner_switch_at", "a number above 0", 0)
    return RefinerBody(name=model_named(shelf, body.refiner_checkpoint), at=body.refiner_switch_at)
