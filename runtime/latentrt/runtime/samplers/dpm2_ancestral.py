"""DPM-Solver-2 with ancestral noise."""

from __future__ import annotations

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.ancestral import ancestral_levels
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["dpm2_ancestral"]


def dpm2_ancestral(latent: Array, schedule: Schedule, *, noise: Noise, eta: float = 1.0) -> Sampler:
    """The step of `dpm2` to a level below the next, and fresh noise to come back up to that.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last. A
    step to no noise is Euler's: it has no second evaluation. `eta`, from 0 to 1, is the share of
    fresh noise; above 0, one array is drawn from `noise` after each second evaluation.

    Source: arXiv:2206.00927, Alg. 1, for the step; k-diffusion's `sample_dpm_2_ancestral`.
    """
    evaluations = iter(schedule.evaluations)
    for e in evaluations:
        down, up = ancestral_levels(e.sigma, e.sigma_next, eta)
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        d: Array = (latent - denoised) / e.sigma
        if e.sigma_next > 0.0:
            second = next(evaluations)
            middle: Array = d * (second.sigma - e.sigma) + latent
            middle, denoised = yield Denoise(middle, second.sigma, second.timestep)
            d = (middle - denoised) / second.sigma
        latent = d * (down - e.sigma) + latent
        if eta > 0.0 and e.sigma_next > 0.0:
            latent = noise.normal(latent.shape) * up + latent
    return latent
