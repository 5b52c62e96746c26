"""DDPM, ancestral sampling of the reverse process that the model was trained for."""

from __future__ import annotations

import math

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.clipping import clip
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["ddpm"]


def ddpm(latent: Array, schedule: Schedule, *, noise: Noise, large: bool = False) -> Sampler:
    """A step to the posterior's mean given the estimate of x0, and fresh noise on top.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    The noise has the posterior's variance or, with `large`, that of the forward step. One array is
    drawn from `noise` after each evaluation but one at timestep 0.

    Source: arXiv:2006.11239, eq. 7 and section 3.2, for latents divided by the square root of
    alpha.
    """
    for e in schedule.evaluations:
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        denoised = clip(denoised, schedule.clipping)
        kept = (e.sigma_next / e.sigma) ** 2
        latent = (latent - denoised) * kept + denoised
        if e.timestep > 0.0:
            # Of the forward step's variance, the posterior leaves what the next level has.
            ratio = (e.sigma_next**2 + 1.0) / (e.sigma**2 + 1.0)
            forward = ratio * (e.sigma**2 - e.sigma_next**2)
            fresh = math.sqrt(forward) if large else e.sigma_next * math.sqrt(1.0 - kept)
            latent = noise.normal(latent.shape) * fresh + latent
    return latent
