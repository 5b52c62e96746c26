"""What a sampler asks for, and the type that all samplers have."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Denoise", "Sampler"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Denoise:
    """A latent to be denoised: what a sampler yields.

    `latent` is x0 + sigma * noise, float32 [channels, h, w]; `sigma` its noise level at data scale
    1; `timestep` the model's input, which must not be computed from sigma. Both are Python
    floats: a NumPy double would promote float32 arrays.
    """

    latent: Array
    sigma: float
    timestep: float


Sampler = Generator[Denoise, tuple[Array, Array], Array]
"""Yields `Denoise`, is sent (latent as evaluated, denoised), and returns the last latent.

The latent that comes back may differ from the one that was yielded. A driver that inpaints puts the
known region back. Both are float32 of the yielded latent's shape.
"""
