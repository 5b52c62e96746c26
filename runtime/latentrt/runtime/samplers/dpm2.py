"""DPM-Solver-2: a midpoint method."""

from __future__ import annotations

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["dpm2"]


def dpm2(latent: Array, schedule: Schedule, *, noise: Noise) -> Sampler:
    """A step with the slope at the geometric mean of its two levels, to which Euler's step leads.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last. A
    step to no noise is Euler's: it has no second evaluation. Draws no noise.

    Source: arXiv:2206.00927, Alg. 1.
    """
    evaluations = iter(schedule.evaluations)
    for e in evaluations:
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        d: Array = (latent - denoised) / e.sigma
        if e.sigma_next > 0.0:
            second = next(evaluations)
            middle: Array = d * (second.sigma - e.sigma) + latent
            middle, denoised = yield Denoise(middle, second.sigma, second.timestep)
            d = (middle - denoised) / second.sigma
        latent = d * (e.sigma_next - e.sigma) + latent
    return latent
