"""PyTorch's run of one prompt, repeated by a pipeline's engines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.reference import Reference
from latentrt.runtime.conditioning import Row as Condition
from latentrt.runtime.guidance import Guidance, guide
from latentrt.runtime.noise import TorchNoise
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.prediction import denoised, model_input
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Batch, Row
from latentrt.runtime.samplers import sample
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.schedules import euler_name
from latentrt.runtime.size import Size

Latents = NDArray[np.float32]


class RepeatedRun:
    """The same prompt, size, starting noise and steps as a reference; everything else is ours.

    `conditions` are the U-Net's inputs beside latent and timestep, the negative prompt's first.
    """

    def __init__(self, pipeline: Pipeline, reference: Reference) -> None:
        height, width = reference.size
        request = Request(
            reference.prompt,
            size=Size(width, height),
            guidance=Guidance(reference.guidance_scale),
            sampling=Sampling(
                euler_name(pipeline.bundle.scheduler_config()),
                steps=len(reference.tensors["run/timesteps"]),
            ),
        )
        self._pipeline = pipeline
        self._reference = reference
        self._plan = pipeline.plan(request)
        self.schedule = self._plan.schedule
        conditioning = self._plan.conditioning
        negative = conditioning.negative
        self.conditions = (*([] if negative is None else [negative]), *conditioning.prompts)

    def steps(self) -> list[Latents]:
        """The latents [c, h, w] after each step of our own run, at the reference's scale."""
        return self._latents(self.conditions, alone=False)

    def steps_alone(self) -> list[Latents]:
        """The same, each step computed from the reference's latents and prompt states."""
        tensors, names = self._reference.tensors, self.conditions[0]
        theirs = [
            {name: tensors[f"run/{name}"][i] for name in names} for i in range(len(self.conditions))
        ]
        return self._latents(theirs, alone=True)

    def picture(self, latent: Latents) -> NDArray[np.float32]:
        """A latent [c, h, w] decoded: pixels [3, H, W]."""
        return self._pipeline.decode(latent[None])[0]

    def _latents(self, conditions: Sequence[Condition], *, alone: bool) -> list[Latents]:
        unit = np.float32(self.schedule.final_scale)  # of the model's own data
        start = self._reference.tensors["run/latents"][0]
        sampler = sample(
            start * np.float32(self.schedule.init_scale), self.schedule, noise=TorchNoise(0)
        )
        batch = Batch(self._plan.unet(len(conditions)))
        asked = next(sampler)
        found: list[Latents] = []
        while True:
            latent = asked.latent
            if found and alone:
                latent = self._reference.latents(len(found) - 1) / unit
            output = self._evaluate(batch, latent, asked.sigma, asked.timestep, conditions)
            estimate = denoised(latent, output, asked.sigma, self.schedule.prediction_type)
            try:
                asked = sampler.send((latent, estimate))
            except StopIteration as finished:
                return [*found, finished.value * unit]
            found.append(asked.latent * unit)

    def _evaluate(
        self,
        batch: Batch,
        latent: Latents,
        sigma: float,
        timestep: float,
        conditions: Sequence[Condition],
    ) -> Latents:
        scaled = model_input(latent, sigma)
        outputs = batch.evaluate([Row(scaled, timestep, each) for each in conditions])
        if len(conditions) == 1:
            return outputs[0]
        return guide(outputs[0], [outputs[1]], (1.0,), scale=self._reference.guidance_scale)
