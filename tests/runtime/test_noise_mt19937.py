"""PyTorch's noise on the CPU, held against torch.randn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import TorchNoise

# PyTorch's portable kernels round log and sincos differently from its vector kernels, which are the
# ones that `TorchNoise` reproduces: on such a processor 2e-6 is all that can be asked.
EXACT = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def torch_normal(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).numpy() for shape in shapes]


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    if EXACT:
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_a_thousand_seeds_give_torch_numbers_draw_after_draw(first: int) -> None:
    for seed in range(first, first + 100):
        # Sizes of every remainder by 16, below it and above, the first a latent of odd sides.
        shapes = [(4, 5 + seed % 13, 7 + seed % 11), (seed % 37,), (3, 3 + seed % 5)]
        noise = TorchNoise(seed)
        for shape, theirs in zip(shapes, torch_normal(seed, *shapes), strict=True):
            assert_same(noise.normal(shape), theirs)


@pytest.mark.parametrize("seed", [0, 7, 123456789])
def test_every_small_size_gives_torch_numbers(seed: int) -> None:
    # From 16 numbers on another path is taken, whose last block is drawn twice: every remainder.
    for count in range(70):
        (theirs,) = torch_normal(seed, (count,))
        assert_same(TorchNoise(seed).normal((count,)), theirs)


@pytest.mark.parametrize(
    "shape",
    [(4, 64, 64), (4, 128, 128), (4, 97, 131), (4, 17, 9), (1, 1, 1), (16, 1), (3, 0, 2), ()],
)
def test_latent_shapes_give_torch_numbers(shape: tuple[int, ...]) -> None:
    (theirs,) = torch_normal(3, shape)
    assert_same(TorchNoise(3).normal(shape), theirs)


@pytest.mark.parametrize("seed", range(20))
def test_one_stream_read_in_pieces_gives_torch_numbers(seed: int) -> None:
    # An odd short call leaves half a pair behind: the next short one takes it up, past long ones.
    counts = np.random.default_rng(seed).choice([1, 2, 3, 5, 15, 16, 17, 31, 40, 1000], 12)
    shapes = [(int(count),) for count in counts]
    noise = TorchNoise(seed)
    for shape, theirs in zip(shapes, torch_normal(seed, *shapes), strict=True):
        assert_same(noise.normal(shape), theirs)


@pytest.mark.parametrize(
    "seed",
    [-1, -2, -(2**31), -(2**63), 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63 - 1, 2**63, 2**64 - 1],
)
def test_unusual_seeds_that_torch_takes_give_its_numbers(seed: int) -> None:
    (theirs,) = torch_normal(seed, (40,))
    assert_same(TorchNoise(seed).normal((40,)), theirs)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.0, "7", True, None, math.nan])
def test_seeds_that_torch_refuses_are_refused_by_name(seed: int) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        torch.Generator().manual_seed(seed)
    with pytest.raises(InputError, match=r"^seed: expected an integer from "):
        TorchNoise(seed)


def test_two_streams_do_not_share_state() -> None:
    one, other = TorchNoise(1), TorchNoise(2)
    first = one.normal((20,))
    other.normal((33,))
    expected = torch_normal(1, (20,), (20,))
    assert_same(first, expected[0])
    assert_same(one.normal((20,)), expected[1])
