"""PyTorch's normal numbers on the CPU, without PyTorch."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.noise.seed import seed_bits
from latentrt.runtime.noise.stream import Noise

__all__ = ["TorchNoise"]

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]

_BLOCK: Final = 16
"""PyTorch's vector kernel turns 8 radii and the 8 angles after them into 16 normals."""
_SLICE: Final = 16384
"""Numbers worked on at a time, so that the intermediate arrays stay in the cache."""


class TorchNoise(Noise):
    """The stream of `torch.randn` on the CPU with `torch.Generator().manual_seed(seed)`.

    It is bit for bit what PyTorch's AVX2 and AVX-512 kernels draw, call by call. As there, a call
    for 16 numbers or more takes another path than a shorter one. (PyTorch's portable kernels, on
    other processors, differ from these by up to 2e-6; its CUDA generator is another stream.)

    `seed` is an integer from -2**63 to 2**64 - 1, of which the generator uses the low 32 bits;
    anything else is an InputError.

    Source: aten/src/ATen/native/cpu/DistributionTemplates.h; doi:10.1145/272991.272995 (MT19937);
    G. E. P. Box and M. E. Muller, Ann. Math. Stat. 29 (1958).
    """

    __slots__ = ("_spare", "_words")

    def __init__(self, seed: int) -> None:
        # RandomState seeds MT19937 as PyTorch does, and its stream is frozen for good (NEP 19).
        self._words = np.random.RandomState(seed_bits(seed) & 0xFFFFFFFF)
        self._spare: float | None = None

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The next numbers of the stream, float32 of the given shape, in C order."""
        count = math.prod(shape)
        if count < _BLOCK:
            return np.array([self._one() for _ in range(count)], np.float32).reshape(shape)
        uniform = self._uniform(count)
        whole = count - count % _BLOCK
        out = np.empty(count, np.float32)
        for start in range(0, whole, _SLICE):
            part = slice(start, min(start + _SLICE, whole))
            out[part] = _box_muller(uniform[part])
        if whole < count:
            # The tail is not the next block: the last 16 numbers are all drawn once more.
            out[-_BLOCK:] = _box_muller(self._uniform(_BLOCK))
        return out.reshape(shape)

    def _uniform(self, count: int) -> _F32:
        """The low 24 bits of `count` words, as float32 in [0, 1)."""
        words = self._words.randint(0, 2**32, count, dtype=np.uint32)
        return (words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def _one(self) -> float:
        """One number on the path for short calls: doubles, each pair of uniforms giving two."""
        if self._spare is not None:
            spare, self._spare = self._spare, None
            return spare
        words = [int(word) for word in self._words.randint(0, 2**32, 4, dtype=np.uint32)]
        angle, radius = (
            ((high << 32 | low) & (2**53 - 1)) * 2.0**-53 for high, low in (words[:2], words[2:])
        )
        r = math.sqrt(-2.0 * math.log1p(-radius))
        self._spare = r * math.sin(2.0 * math.pi * angle)
        return r * math.cos(2.0 * math.pi * angle)


def _box_muller(uniform: _F32) -> _F32:
    """Normals from uniforms in [0, 1), both [16 n], in blocks of 8 radii and 8 angles."""
    pairs = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2.0) * _log(np.float32(1.0) - pairs[:, 0]))
    sin, cos = _sin_cos(np.float32(2.0 * math.pi) * pairs[:, 1])
    out = np.empty_like(pairs)
    np.multiply(radius, cos, out=out[:, 0])
    np.multiply(radius, sin, out=out[:, 1])
    return out.ravel()


# The Cephes polynomials as PyTorch's vector kernels evaluate them (avx_mathfun.h): NumPy's log, sin
# and cos round differently. The order of operations here is the contract, not a style.


def _float32(*constants: float) -> tuple[float, ...]:
    """Constants as the kernels hold them, rounded to single precision."""
    return tuple(float(np.float32(c)) for c in constants)


_SQRT_HALF: Final = np.float32(0.707106781186547524)
_LOG: Final = _float32(
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_LOG_TWO: Final = _float32(-2.12194440e-4, 0.693359375)
"""ln 2 in two parts, the small one first."""

_FOUR_OVER_PI: Final = np.float32(1.27323954473516)
_QUARTER_PI: Final = _float32(-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)
"""Minus pi / 4 in three parts, so that subtracting multiples of it loses no digits."""
_COS: Final = _float32(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_SIN: Final = _float32(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)


def _fma(a: _F32 | float, b: _F32 | float, c: _F32 | float) -> _F32:
    """a * b + c with one rounding: the product of two singles is exact in double precision."""
    out: _F64 = np.multiply(a, b, dtype=np.float64)
    out += c
    return out.astype(np.float32)


def _log(x: _F32) -> _F32:
    """Natural logarithm of positive normal numbers."""
    bits = x.view(np.int32)
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).view(np.float32)
    low = mantissa < _SQRT_HALF
    exponent = ((bits >> 23) - 126).astype(np.float32) - low
    x = (mantissa - np.float32(1.0)) + np.where(low, mantissa, np.float32(0.0))
    square: _F32 = x * x
    y = _fma(x, _LOG[0], _LOG[1])
    for constant in _LOG[2:]:
        y = _fma(y, x, constant)
    y = _fma(y * x, square, exponent * np.float32(_LOG_TWO[0]))
    y = _fma(-0.5, square, y)
    return _fma(exponent, _LOG_TWO[1], x + y)


def _sin_cos(x: _F32) -> tuple[_F32, _F32]:
    """Sine and cosine of angles from 0 to 2 pi."""
    octant = ((x * _FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    turns = octant.astype(np.float32)
    for part in _QUARTER_PI:
        x = _fma(turns, part, x)
    square: _F32 = x * x
    y = _fma(_fma(square, _COS[0], _COS[1]), square, _COS[2])
    cos = _fma(y * square, square, -(square * np.float32(0.5))) + np.float32(1.0)
    y = _fma(_fma(square, _SIN[0], _SIN[1]), square, _SIN[2])
    sin = _fma(y * square, x, x)
    swap = (octant & 2) != 0
    sin_sign = np.where(octant & 4, np.float32(-1.0), np.float32(1.0))
    cos_sign = np.where((octant + 2) & 4, np.float32(-1.0), np.float32(1.0))
    return sin_sign * np.where(swap, cos, sin), cos_sign * np.where(swap, sin, cos)
