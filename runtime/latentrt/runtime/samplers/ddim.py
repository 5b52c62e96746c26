"""DDIM, from deterministic (eta 0) to as noisy as DDPM (eta 1)."""

from __future__ import annotations

import math

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.clipping import clip
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.samplers.level import relabelled
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["ddim"]


def ddim(latent: Array, schedule: Schedule, *, noise: Noise, eta: float = 0.0) -> Sampler:
    """A step from the estimates of x0 and of the noise, some of the noise replaced by fresh noise.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    `eta`, from 0 to 1, is the share of fresh noise. Above 0, one array is drawn from `noise` after
    each evaluation, the last included.

    Source: arXiv:2010.02502, eq. 12 and 16, for latents divided by the square root of alpha.
    """
    level = schedule.evaluations[0].sigma
    for e in schedule.evaluations:
        latent = relabelled(latent, level, e.sigma)
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        # The noise that the unclipped estimate implies: clipping moves x0 alone.
        noise_pred: Array = (latent - denoised) / e.sigma
        denoised = clip(denoised, schedule.clipping)
        fresh = eta * e.sigma_next * math.sqrt(1.0 - (e.sigma_next / e.sigma) ** 2)
        latent = noise_pred * math.sqrt(e.sigma_next**2 - fresh**2) + denoised
        if eta > 0.0:
            latent = noise.normal(latent.shape) * fresh + latent
        level = e.sigma_next
    return latent
