"""Euler's method."""

from __future__ import annotations

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["euler"]


def euler(latent: Array, schedule: Schedule, *, noise: Noise) -> Sampler:
    """One step of first order per evaluation, along the line from the latent to the estimate of x0.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    Draws no noise.

    Source: arXiv:2206.00364, Alg. 1, without its second-order correction.
    """
    for e in schedule.evaluations:
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        d: Array = (latent - denoised) / e.sigma
        latent = d * (e.sigma_next - e.sigma) + latent
    return latent
