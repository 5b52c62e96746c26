"""How a step to a noise level is parted into one below it and fresh noise."""

from __future__ import annotations

import math

__all__ = ["ancestral_levels"]


def ancestral_levels(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """The level to step down to, and that of the noise to add for `sigma_next` to be reached.

    `sigma` is above 0 and at least `sigma_next`. `eta`, from 0 to 1, is the share of fresh noise.
    At 1 the noise of both levels is one random walk's.

    Source: arXiv:2010.02502, eq. 16, at data scale 1; k-diffusion's `get_ancestral_step`.
    """
    walk = eta * math.sqrt(1.0 - (sigma_next / sigma) ** 2)
    return sigma_next * math.sqrt(1.0 - walk**2), sigma_next * walk
