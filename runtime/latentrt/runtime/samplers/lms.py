"""The linear multistep method of Adams and Bashforth."""

from __future__ import annotations

import math
from typing import Final

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["lms"]

_ORDER: Final = 4


def lms(latent: Array, schedule: Schedule, *, noise: Noise) -> Sampler:
    """A step along the polynomial through this evaluation's slope and the three before.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    The first steps make do with the slopes there are. Draws no noise.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section III.5
    (variable step size); k-diffusion's `sample_lms`.
    """
    past: list[tuple[float, Array]] = []
    for e in schedule.evaluations:
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        d: Array = (latent - denoised) / e.sigma
        # Of two slopes at one level, after a step of length zero, no polynomial has both.
        past = [(sigma, slope) for sigma, slope in past if sigma != e.sigma]
        past = [(e.sigma, d), *past][:_ORDER]
        weights = _weights([sigma for sigma, _ in past], e.sigma_next)
        for weight, (_, slope) in zip(weights, past, strict=True):
            latent = slope * weight + latent
    return latent


def _weights(levels: list[float], end: float) -> list[float]:
    """The integrals, from the first level to `end`, of the Lagrange polynomials of all levels.

    Gauss's rule with two points, which is exact up to the third degree: four levels have that.
    """
    half = 0.5 * (end - levels[0])
    points = [levels[0] + half * (1.0 + side / math.sqrt(3.0)) for side in (-1.0, 1.0)]
    return [half * sum(_lagrange(levels, own, x) for x in points) for own in levels]


def _lagrange(levels: list[float], own: float, x: float) -> float:
    """The polynomial that is 1 at one of the levels and 0 at the others, at x."""
    return math.prod((x - other) / (own - other) for other in levels if other != own)
