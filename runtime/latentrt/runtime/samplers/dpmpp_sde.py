"""DPM-Solver++ (SDE), the second-order solver of k-diffusion."""

from __future__ import annotations

import math

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["dpmpp_sde"]


def dpmpp_sde(latent: Array, schedule: Schedule, *, noise: Noise, eta: float = 1.0) -> Sampler:
    """A step by the estimate of x0 half way down, where a first step by its own estimate leads.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    Half way is the geometric mean of the two levels. `eta`, from 0 to 1, is the share of fresh
    noise. Above 0, one increment of `noise` is drawn for the half and one for the whole step, and
    none for a step to level 0.

    Source: arXiv:2211.01095, Alg. 1 (r = 1/2), made stochastic as in k-diffusion's
    `sample_dpmpp_sde`.
    """
    start, sigma = latent, 0.0
    for e in schedule.evaluations:
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        end = e.sigma_next
        if e.stage == 0:
            start, sigma = latent, e.sigma
            end = math.sqrt(e.sigma * e.sigma_next)
        # Rounding may put the geometric mean of equal levels above them.
        fall = min(end / sigma, 1.0)
        fresh = eta * end * math.sqrt(1.0 - fall**2)
        ratio = math.sqrt(end**2 - fresh**2) / sigma
        kept: Array = start * ratio
        latent = denoised * (1.0 - ratio) + kept
        if eta > 0.0 and end > 0.0:
            latent = noise.increment(latent.shape, sigma, end) * fresh + latent
    return latent
