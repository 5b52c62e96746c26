"""Noise of SDE samplers: a Brownian path over the noise levels."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise.seed import seed_bits
from latentrt.runtime.noise.stream import Noise

__all__ = ["BrownianNoise", "path_terms"]

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]

_DEPTH: Final = 14
"""How often an octave is halved: levels in one of its last intervals move together."""
_LOWEST: Final = -20
"""Octaves begin at 2**-20: below every level that a model knows. What is under it is one more."""
_SLICE: Final = 16384
"""Normals made at a time, so that the intermediate arrays stay in the cache."""


class BrownianNoise(Noise):
    """A stream with a Brownian path W over the noise levels, of the same seed, beside it.

    `normal` is the stream's. `increment` is the path's. W at a level is the same array in any order
    of calls, so two halves of a step have the noise of the whole. Reading the path does not move
    the stream, and the path depends on nothing but the seed and the shape. It is not torchsde's: a
    picture equals that of another program only in its law.

    Levels are finite and from 0. Increments have exactly the joint law of a Brownian path where all
    levels differ by at least 2**-14 of the greater, and by 2**-34. Closer ones still add up, with
    too little variance. Raises InputError for other levels, and for what is no seed.

    A step computes the path at one new level, from at most 16 arrays of normals. They are those of
    Lévy's construction (midpoints, halved again) within an octave, 2**k to 2**(k + 1).

    Source: P. Lévy, Processus stochastiques et mouvement brownien (1948); arXiv:2001.01328, section
    4 (a path that is a function of its seed); k-diffusion's BrownianTreeNoiseSampler for the sign.
    """

    __slots__ = ("_ends", "_key", "_stream")

    def __init__(self, stream: Noise, seed: int) -> None:
        self._stream = stream
        self._key = seed_bits(seed)
        self._ends: dict[tuple[float, tuple[int, ...]], _F64] = {}

    def normal(self, shape: tuple[int, ...]) -> _F32:
        """The next numbers of the stream, float32 of the given shape, in C order."""
        return self._stream.normal(shape)

    def increment(self, shape: tuple[int, ...], sigma: float, sigma_next: float) -> _F32:
        """(W(sigma_next) - W(sigma)) / sqrt(|sigma_next - sigma|), float32 of the given shape.

        Zeros where the levels are the same.
        """
        low, high = sorted((_checked("sigma", sigma), _checked("sigma_next", sigma_next)))
        if low == high:
            return np.zeros(shape, np.float32)
        bottom, top = self._within(low, shape), self._within(high, shape)
        # A step's end is the next one's beginning: kept, since it is what costs time.
        self._ends = {(low, shape): bottom, (high, shape): top}
        rise: _F64 = top - bottom
        for octave in range(_place(low)[0], _place(high)[0]):
            self._add(rise, _node(octave, 0), math.sqrt(_length(octave)))
        rise *= math.copysign(1.0 / math.sqrt(high - low), sigma_next - sigma)
        return rise.astype(np.float32).reshape(shape)

    def _within(self, level: float, shape: tuple[int, ...]) -> _F64:
        """W(level) less W at the bottom of its octave, flat."""
        known = self._ends.get((level, shape))
        if known is not None:
            return known
        path = np.zeros(math.prod(shape))
        for node, coefficient in path_terms(level):
            self._add(path, node, coefficient)
        return path

    def _add(self, path: _F64, node: int, coefficient: float) -> None:
        """Add a node's normals, times a coefficient, to a flat array.

        They are Philox words, whose order NumPy has promised to keep, unlike that of its normals.
        """
        words = np.random.Philox(key=self._key, counter=node << 128)
        for start in range(0, len(path), _SLICE):
            part = path[start : start + _SLICE]
            part += coefficient * _normals(words, len(part))


def path_terms(level: float) -> list[tuple[int, float]]:
    """The nodes whose normals make W(level) - W(bottom of its octave), and their coefficients.

    The first node is the octave's rise. The next are the deviations of the midpoints down to the
    level. The last is the deviation at the level itself within the last interval.
    """
    octave, x = _place(level)
    scale = math.sqrt(_length(octave))
    terms = [(_node(octave, 0), scale * x)]
    index = 1
    for _ in range(_DEPTH):
        terms.append((_node(octave, index), scale * min(x, 1.0 - x)))
        upper = x >= 0.5
        x = 2.0 * x - upper
        index = 2 * index + upper
        scale *= math.sqrt(0.5)
    terms.append((_node(octave, index), scale * math.sqrt(x * (1.0 - x))))
    return [(node, coefficient) for node, coefficient in terms if coefficient != 0.0]


def _checked(field: str, level: float) -> float:
    if not (math.isfinite(level) and level >= 0.0):
        raise InputError(field, "a finite noise level from 0", level)
    return level


def _place(level: float) -> tuple[int, float]:
    """The octave of a level, counted from 1 at 2**-20 (0 is below), and the share of it passed."""
    mantissa, exponent = math.frexp(level)
    if level == 0.0 or exponent <= _LOWEST:
        return 0, math.ldexp(level, -_LOWEST)
    return exponent - _LOWEST, 2.0 * mantissa - 1.0


def _length(octave: int) -> float:
    """The length of an octave; the one below all others is as long as the first."""
    return math.ldexp(1.0, _LOWEST + max(octave - 1, 0))


def _node(octave: int, index: int) -> int:
    """A number of its own for each node: 0 is an octave's rise, then its midpoints, row by row."""
    return octave << 32 | index


def _normals(words: np.random.Philox, count: int) -> _F32:
    """The next normals of a node, float32 [count], by Box and Muller's transform."""
    half = -(-count // 2)
    u: _F32 = words.random_raw(half).view(np.uint32).astype(np.float32)
    u *= np.float32(2.0**-32)
    u += np.float32(2.0**-33)
    r: _F32 = np.sqrt(np.float32(-2.0) * np.log(u[:half]))
    angle: _F32 = np.float32(2.0 * math.pi) * u[half:]
    return np.concatenate([r * np.cos(angle), r * np.sin(angle)])[:count]
