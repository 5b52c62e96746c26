"""Latent consistency models: to the picture in one step, and back to some noise."""

from __future__ import annotations

import math
from typing import Final

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.clipping import clip
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["lcm"]

_DATA_VARIANCE: Final = 0.25
"""Of the data, as such models assume it."""


def lcm(
    latent: Array, schedule: Schedule, *, noise: Noise, timestep_scaling: float = 10.0
) -> Sampler:
    """A jump to the estimate of x0, and fresh noise up to the next level.

    `latent` is float32 [channels, h, w] at the first level; what is returned has no noise.
    The estimate is mixed with the latent, the less the further `timestep_scaling` times the
    timestep is from 0. One array is drawn from `noise` after each evaluation but the last.

    Source: arXiv:2303.01469, Alg. 1 and appendix C (the mixture); arXiv:2310.04378.
    """
    for e in schedule.evaluations:
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        time = e.timestep * timestep_scaling
        distance = time**2 + _DATA_VARIANCE
        # The boundary condition is one on the latent at unit variance.
        kept = _DATA_VARIANCE / distance / math.sqrt(e.sigma**2 + 1.0)
        estimate: Array = clip(denoised, schedule.clipping) * (time / math.sqrt(distance))
        latent = latent * kept + estimate
        if e.sigma_next > 0.0:
            latent = noise.normal(latent.shape) * e.sigma_next + latent
    return latent
