"""The generators that a request can name, and NumPy's numbers, held against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import (
    GENERATORS,
    Noise,
    NumpyNoise,
    PhiloxNoise,
    TorchNoise,
    noise_stream,
)

STREAMS: dict[str, Callable[[int], Noise]] = {
    "torch": TorchNoise,
    "torch-cuda": PhiloxNoise,
    "numpy": NumpyNoise,
}


@pytest.mark.parametrize("seed", [0, 7, 2**32, 2**64 - 1])
def test_numpy_noise_is_the_default_generators_draw_after_draw(seed: int) -> None:
    theirs, ours = np.random.default_rng(seed), NumpyNoise(seed)
    for shape in ((4, 17, 9), (5,), (), (0, 3), (4, 64, 64)):
        drawn = ours.normal(shape)
        assert drawn.dtype == np.float32
        np.testing.assert_array_equal(drawn, theirs.standard_normal(shape, dtype=np.float32))


def test_a_negative_seed_that_numpy_refuses_wraps_around() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        np.random.default_rng(-5)
    expected = np.random.default_rng(2**64 - 5).standard_normal(40, dtype=np.float32)
    np.testing.assert_array_equal(NumpyNoise(-5).normal((40,)), expected)


@pytest.mark.parametrize("brownian", [False, True])
@pytest.mark.parametrize("generator", GENERATORS)
def test_a_name_gives_its_generators_stream(generator: str, brownian: bool) -> None:
    noise = noise_stream(generator, 11, brownian=brownian)
    expected = STREAMS[generator](11)
    for shape in ((4, 6, 5), (3,)):
        np.testing.assert_array_equal(noise.normal(shape), expected.normal(shape))


def test_every_generator_has_a_name() -> None:
    assert tuple(STREAMS) == GENERATORS


def test_an_unknown_generator_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"^generator: expected one of torch, torch-cuda, numpy, "):
        noise_stream("mps", 0)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.0, "7", True, None])
@pytest.mark.parametrize("brownian", [False, True])
@pytest.mark.parametrize("generator", GENERATORS)
def test_seeds_that_torch_refuses_are_refused_by_every_generator(
    generator: str, brownian: bool, seed: int
) -> None:
    with pytest.raises(InputError, match=r"^seed: expected an integer from "):
        noise_stream(generator, seed, brownian=brownian)


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_plain_streams_increments_are_its_next_numbers(generator: str) -> None:
    noise, expected = noise_stream(generator, 3), noise_stream(generator, 3)
    np.testing.assert_array_equal(noise.increment((4, 5), 9.0, 2.0), expected.normal((4, 5)))
    np.testing.assert_array_equal(noise.increment((4, 5), 2.0, 2.0), expected.normal((4, 5)))
