"""PyTorch's run of one prompt, repeated by a pipeline's engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.reference import Reference
from latentrt.runtime.denoiser import Condition, Denoiser, GuidedDenoiser
from latentrt.runtime.guidance import Guidance
from latentrt.runtime.noise import TorchNoise
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.plan import PictureNoise
from latentrt.runtime.prediction import denoised
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Calls
from latentrt.runtime.samplers import sample
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.schedules import euler_name
from latentrt.runtime.size import Size

Latents = NDArray[np.float32]


class RepeatedRun:
    """The same prompt, size, starting noise and steps as a reference; everything else is ours.

    The pipeline's own plan is driven: its schedule, its denoiser and its batches of rows.
    `conditions` are the U-Net's inputs beside latent and timestep, the negative prompt's first.
    """

    def __init__(self, pipeline: Pipeline, reference: Reference) -> None:
        height, width = reference.size
        request = Request(
            reference.prompt,
            syntax="plain",
            size=Size(width, height),
            guidance=Guidance(reference.guidance_scale),
            sampling=Sampling(
                euler_name(pipeline.bundle.scheduler_config()),
                steps=len(reference.tensors["run/timesteps"]),
            ),
        )
        self._pipeline = pipeline
        self._reference = reference
        plan = pipeline.plan(request)
        (self._leg,) = plan.legs
        self.schedule = self._leg.schedule
        self._calls = Calls(plan.batches)
        self._held = plan.engines  # so that none is freed
        denoiser = self._leg.denoiser
        assert isinstance(denoiser, GuidedDenoiser)
        self._denoiser = denoiser
        negative = [] if denoiser.negative is None else [denoiser.negative]
        conditions = (*negative, *denoiser.prompts)
        self.conditions = tuple(each.constant for each in conditions)

    def steps(self) -> list[Latents]:
        """The latents [c, h, w] after each step of our own run, at the reference's scale."""
        return self._latents(self._denoiser, alone=False)

    def steps_alone(self) -> list[Latents]:
        """The same, each step computed from the reference's latents and prompt states."""
        tensors, names = self._reference.tensors, self.conditions[0]
        *negative, prompt = (
            Condition({name: tensors[f"run/{name}"][i] for name in names})
            for i in range(len(self.conditions))
        )
        denoiser = replace(
            self._denoiser, prompts=(prompt,), negative=negative[0] if negative else None
        )
        return self._latents(denoiser, alone=True)

    def picture(self, latent: Latents) -> NDArray[np.float32]:
        """A latent [c, h, w] decoded: pixels [3, H, W]."""
        return self._pipeline.decode(latent[None])[0]

    def _latents(self, denoiser: Denoiser, *, alone: bool) -> list[Latents]:
        schedule = self.schedule
        unit = np.float32(schedule.final_scale)  # of the model's own data
        noise = PictureNoise(TorchNoise, 0, self._reference.tensors["run/latents"][0])
        sampler = sample(self._leg.enter(None, noise).latent, schedule, noise=noise.stream)
        asked = next(sampler)
        found: list[Latents] = []
        for at in schedule.positions:
            if found and alone:
                theirs = self._reference.latents(len(found) - 1) / unit
                asked = replace(asked, latent=theirs)
            output = self._calls.answer(denoiser(asked, at))
            estimate = denoised(asked.latent, output, asked.sigma, schedule.prediction_type)
            try:
                asked = sampler.send((asked.latent, estimate))
            except StopIteration as finished:
                return [*found, finished.value * unit]
            found.append(asked.latent * unit)
        raise AssertionError  # a sampler ends with its schedule
