"""Heun's method."""

from __future__ import annotations

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.clipping import clip
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["heun"]


def heun(latent: Array, schedule: Schedule, *, noise: Noise) -> Sampler:
    """Euler's step, repeated with the mean of the slopes at its two ends.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last. A
    step to no noise stays Euler's: it has no second evaluation. Draws no noise.

    Source: arXiv:2206.00364, Alg. 1.
    """
    evaluations = iter(schedule.evaluations)
    for e in evaluations:
        length = e.sigma_next - e.sigma
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        d: Array = (latent - clip(denoised, schedule.clipping)) / e.sigma
        end: Array = d * length + latent
        if e.sigma_next > 0.0:
            second = next(evaluations)
            end, denoised = yield Denoise(end, second.sigma, second.timestep)
            d_end: Array = (end - clip(denoised, schedule.clipping)) / second.sigma
            end = (d + d_end) * (0.5 * length) + latent
        latent = end
    return latent
