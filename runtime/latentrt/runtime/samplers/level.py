"""Taking a latent for one of another noise level."""

from __future__ import annotations

import math

from latentrt.runtime.samplers.denoise import Array

__all__ = ["relabelled"]


def relabelled(latent: Array, sigma: float, other: float) -> Array:
    """The latent of level `other` that the model sees as it sees this one of level `sigma`.

    `latent` is float32 of any shape, and so is the result. Samplers whose steps do not end at the
    next timestep go on so: at unit variance it is the same array.
    """
    if other == sigma:
        return latent
    return latent * math.sqrt((other**2 + 1.0) / (sigma**2 + 1.0))
