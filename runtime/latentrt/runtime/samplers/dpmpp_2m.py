"""DPM-Solver++ (2M): two estimates of x0 and one evaluation a step."""

from __future__ import annotations

import math

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.clipping import clip
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Multistep, Schedule

__all__ = ["dpmpp_2m"]

_DEFAULT = Multistep(order=2, solver_type="midpoint", first_order_final=True)


def dpmpp_2m(latent: Array, schedule: Schedule, *, noise: Noise) -> Sampler:
    """A step that extrapolates the estimate of x0 from this evaluation and the one before.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    The first step is of first order, the last too where `schedule.multistep` says so. Draws no
    noise.

    Source: arXiv:2211.01095, Alg. 2 and appendix B (the heun type), for latents divided by alpha.
    """
    solver = schedule.multistep or _DEFAULT
    final = len(schedule.evaluations) - 1
    before, step_before = latent, 0.0
    for i, e in enumerate(schedule.evaluations):
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        denoised = clip(denoised, schedule.clipping)
        ratio = e.sigma_next / e.sigma
        # A step in the logarithm of the level; one of length 0 cannot be extrapolated over.
        step = -math.log(ratio) if ratio > 0.0 else math.inf
        latent = latent * ratio
        latent = denoised * (1.0 - ratio) + latent
        low = solver.order == 1 or i == 0 or (i == final and solver.first_order_final)
        if not low and step_before > 0.0 and 0.0 < step < math.inf:
            if solver.solver_type == "midpoint":
                weight = 0.5 * (1.0 - ratio)
            else:
                weight = 1.0 - (1.0 - ratio) / step
            latent = (denoised - before) * (weight * step / step_before) + latent
        before, step_before = denoised, step
    return latent
