"""Pipelines of diffusers, as several scripts use them: loading, drawing, timing the parts."""

# pyright: basic, reportPrivateImportUsage=false

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from serving import Picture, Spec

SCHEDULERS = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler"}
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def load(spec: Spec) -> Any:
    """The checkpoint's pipeline in the spec's precision, where the spec wants it."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.set_grad_enabled(False)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    pipe: Any = StableDiffusionPipeline.from_pretrained(
        spec.checkpoint,
        dtype=getattr(torch, DTYPES[spec.precision]),
        safety_checker=None,  # no library of the comparison runs one
        local_files_only=True,
    )
    # At SD 1.5's size on a CPU a tenth faster for the VAE in fp32 and bf16, even for the U-Net.
    for module in (pipe.unet, pipe.vae):
        module.to(memory_format=torch.channels_last)
    pipe.to(spec.device)
    set_scheduler(pipe, spec.sampler)
    return pipe


def set_scheduler(pipe: Any, sampler: str) -> None:
    """Give a pipeline the sampler of the spec with the checkpoint's own levels; no progress bar."""
    import diffusers

    kind = getattr(diffusers, SCHEDULERS[sampler])
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)


class Stages:
    """Seconds that each component of a picture took."""

    def __init__(self) -> None:
        self.seconds = {"text": 0.0, "unet": 0.0, "decode": 0.0}

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, its seconds added to a stage."""

        def through(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            result = call(*args, **kwargs)
            self.seconds[stage] += time.perf_counter() - begun
            return result

        return through

    def watch(self, pipe: Any) -> None:
        """Time what a pipeline calls: its text encoder, its U-Net, its VAE's decoder."""
        pipe.text_encoder.forward = self.timed("text", pipe.text_encoder.forward)
        pipe.unet.forward = self.timed("unet", pipe.unet.forward)
        pipe.vae.decode = self.timed("decode", pipe.vae.decode)


def drawing(pipe: Any, spec: Spec, latents: Any) -> Callable[[], Picture]:
    """What draws the spec's picture with a pipeline, from the same latents every time.

    On a GPU a call returns before its work is done, so that stages would tell nothing there.
    """
    import numpy

    stages = Stages()
    if spec.device == "cpu":
        stages.watch(pipe)

    def draw() -> Picture:
        stages.seconds = dict.fromkeys(stages.seconds, 0.0)
        image = pipe(
            spec.prompt,
            negative_prompt=spec.negative_prompt,
            height=spec.height,
            width=spec.width,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            latents=latents,
            output_type="pil",
        ).images[0]
        known = dict(stages.seconds) if spec.device == "cpu" else {}
        return Picture(numpy.asarray(image), known)

    return draw


def noise(spec: Spec) -> Any:
    """The starting noise as a tensor where the pipeline is, in its dtype."""
    import torch

    dtype = getattr(torch, DTYPES[spec.precision])
    return torch.from_numpy(spec.noise()).to(spec.device, dtype)
