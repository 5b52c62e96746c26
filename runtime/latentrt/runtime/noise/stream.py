"""What a sampler draws its noise from."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Noise"]


class Noise(Protocol):
    """A stream of independent standard normal numbers."""

    __slots__ = ()

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The next numbers of the stream, float32 of the given shape, in C order."""
        ...

    def increment(
        self, shape: tuple[int, ...], sigma: float, sigma_next: float
    ) -> NDArray[np.float32]:
        """The noise of a step from one level to another, float32 of unit variance.

        A plain stream has no path: whatever the levels are, these are its next numbers.
        """
        return self.normal(shape)
