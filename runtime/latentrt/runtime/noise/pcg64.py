"""NumPy's own normal numbers for a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.noise.seed import seed_bits
from latentrt.runtime.noise.stream import Noise

__all__ = ["NumpyNoise"]


class NumpyNoise(Noise):
    """The stream of `numpy.random.default_rng(seed).standard_normal(shape, dtype=numpy.float32)`.

    Bit for bit what the installed NumPy draws, call by call; NumPy may change these numbers from
    one version to the next (NEP 19), and has not since 1.17. A negative seed, which NumPy refuses,
    stands for `seed + 2**64`. Raises InputError for what is no seed, as `TorchNoise` does.
    """

    __slots__ = ("_generator",)

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed_bits(seed))

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The next numbers of the stream, float32 of the given shape, in C order."""
        return self._generator.standard_normal(shape, dtype=np.float32)
