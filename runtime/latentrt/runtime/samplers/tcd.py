"""Trajectory consistency models: a jump below the next level, and back up to it."""

from __future__ import annotations

import math

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["tcd"]


def tcd(
    latent: Array, schedule: Schedule, *, noise: Noise, eta: float, through: tuple[float, ...]
) -> Sampler:
    """A jump along the trajectory to a level below the next, and fresh noise up to that.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    `through`, one per evaluation, are the levels below. Where `eta`, the paper's gamma, is above 0,
    one array is drawn from `noise` after each evaluation but the last.

    Source: arXiv:2402.19159, strategic stochastic sampling, for latents divided by the square root
    of alpha.
    """
    last = len(schedule.evaluations) - 1
    for i, (e, below) in enumerate(zip(schedule.evaluations, through, strict=True)):
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        noise_pred: Array = (latent - denoised) / e.sigma
        latent = noise_pred * below + denoised
        if eta > 0.0 and i < last:
            fresh = math.sqrt(e.sigma_next**2 - below**2)
            latent = noise.normal(latent.shape) * fresh + latent
    return latent
