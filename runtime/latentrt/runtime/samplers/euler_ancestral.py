"""Euler's method with ancestral noise."""

from __future__ import annotations

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.ancestral import ancestral_levels
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["euler_ancestral"]


def euler_ancestral(
    latent: Array, schedule: Schedule, *, noise: Noise, eta: float = 1.0
) -> Sampler:
    """Euler's step to a level below the next, and fresh noise to come back up to that.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    `eta`, from 0 to 1, is the share of fresh noise; above 0, one array is drawn from `noise` after
    each evaluation, the last included.

    Source: arXiv:2206.00364, Alg. 1, for the step; k-diffusion's `sample_euler_ancestral`.
    """
    for e in schedule.evaluations:
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        down, up = ancestral_levels(e.sigma, e.sigma_next, eta)
        d: Array = (latent - denoised) / e.sigma
        latent = d * (down - e.sigma) + latent
        if eta > 0.0:
            latent = noise.normal(latent.shape) * up + latent
    return latent
