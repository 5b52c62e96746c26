"""PyTorch's normal numbers on a CUDA device, without one."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise.seed import seed_bits
from latentrt.runtime.noise.stream import Noise

__all__ = ["A100_THREADS", "PhiloxNoise", "philox4x32"]

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_U64 = NDArray[np.uint64]

A100_THREADS: Final = 108 * 2048
"""The threads that an A100 runs at a time: its multiprocessors times the threads of each."""

_THREADS_PER_BLOCK: Final = 256
_NORMALS_PER_DRAW: Final = 4
"""A thread draws four words at a time and makes four normals of them."""
_SLICE: Final = 8192
"""Threads worked on at a time, so that the intermediate arrays stay in the cache."""


class PhiloxNoise(Noise):
    """The stream of `torch.randn` with `torch.Generator("cuda").manual_seed(seed)`: unverified.

    It was not compared on a GPU. It agrees to every digit with tensors that others printed on an
    A100, an H100, an RTX A4000, an RTX A6000 and an unnamed GPU (four to seven decimals). It agrees
    to 5e-7 with NVIDIA's own header compiled for the CPU. A GPU's sine is approximate
    (`__sincosf`): expect numbers that are some 1e-6 from these, not the same bits.

    The threads of a GPU share the numbers out. A call for at most one number a thread gives the
    same on every GPU. A longer one depends on `threads`, how many the GPU holds at a time. That is
    multiprocessors times threads of each, in whole blocks of 256. The default is an A100's; an H100
    SXM holds 132 * 2048, an RTX 4090 128 * 1536, an RTX 3060 28 * 1536. A latent of 4x64x64 fits
    them all; one of 4x128x128, 65,536 numbers, does not fit the last.

    Raises InputError for what is no seed, as `TorchNoise` does, and for other `threads`.

    Source: aten/src/ATen/native/cuda/DistributionTemplates.h as of PyTorch 2.13;
    doi:10.1145/2063384.2063405 (Philox); cuRAND library guide, device API (curand_normal4).
    """

    __slots__ = ("_draws", "_key", "_threads")

    def __init__(self, seed: int, *, threads: int = A100_THREADS) -> None:
        if threads < _THREADS_PER_BLOCK or threads % _THREADS_PER_BLOCK:
            raise InputError("threads", "a multiple of 256 above 0", threads)
        bits = seed_bits(seed)
        self._key = (bits & 0xFFFFFFFF, bits >> 32)
        self._threads = threads
        self._draws = 0

    def normal(self, shape: tuple[int, ...]) -> _F32:
        """The next numbers of the stream, float32 of the given shape, in C order."""
        count = math.prod(shape)
        blocks = -(-count // _THREADS_PER_BLOCK)
        threads = min(self._threads, blocks * _THREADS_PER_BLOCK)
        out = np.empty(count, np.float32)
        # Draw by draw, every thread lays its four normals one whole grid apart.
        for start in range(0, count, _NORMALS_PER_DRAW * max(threads, 1)):
            rows = [
                out[row : row + threads]
                for row in range(start, min(start + _NORMALS_PER_DRAW * threads, count), threads)
            ]
            self._draw(rows)
            self._draws += 1
        return out.reshape(shape)

    def _draw(self, rows: list[_F32]) -> None:
        """Fill up to four rows with the next draw of every thread; the last may be shorter."""
        for start in range(0, len(rows[0]), _SLICE):
            parts = [row[start : start + _SLICE] for row in rows]
            thread = np.arange(start, start + len(parts[0]), dtype=np.uint64)
            low, high = self._draws & 0xFFFFFFFF, self._draws >> 32
            words = philox4x32((low, high, thread, 0), self._key)
            for pair in range(0, len(parts), 2):
                _box_muller(words[pair], words[pair + 1], parts[pair : pair + 2])


def philox4x32(counter: tuple[_U64 | int, ...], key: tuple[int, int]) -> tuple[_U64, ...]:
    """Four random words, of 32 bits each in uint64, of a counter of four such and a key of two.

    Ten rounds. Source: doi:10.1145/2063384.2063405 (Philox4x32).
    """
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    for turn in range(10):
        left = np.uint64((key[0] + turn * 0x9E3779B9) & 0xFFFFFFFF)
        right = np.uint64((key[1] + turn * 0xBB67AE85) & 0xFFFFFFFF)
        one: _U64 = a * np.uint64(0xD2511F53)
        two: _U64 = c * np.uint64(0xCD9E8D57)
        a, b, c, d = (two >> half) ^ b ^ left, two & mask, (one >> half) ^ d ^ right, one & mask
    return a, b, c, d


def _box_muller(radius: _U64, angle: _U64, rows: list[_F32]) -> None:
    """Fill one or two rows with normals from 32-bit words: the sine's first, then the cosine's.

    Both uniforms are rounded as the device has them, in single precision, which shows where a
    radius is near 0. The rest is in double: the nearest guess to its approximate functions.
    """
    u: _F64 = _single(_single(radius) * 2.0**-32 + 2.0**-33)
    step = 2.0**-32 * float(np.float32(2.0 * math.pi))
    v: _F64 = _single(_single(angle) * step + 0.5 * step)
    r: _F64 = np.sqrt(-2.0 * np.log(u))
    for row, wave in zip(rows, (np.sin, np.cos), strict=False):
        row[:] = (r * wave(v))[: len(row)]


def _single(x: _U64 | _F64) -> _F64:
    """Numbers rounded to single precision."""
    return x.astype(np.float32).astype(np.float64)
