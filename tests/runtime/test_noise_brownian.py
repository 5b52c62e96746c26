"""Brownian noise, held against the law of a Brownian path."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import (
    GENERATORS,
    BrownianNoise,
    NumpyNoise,
    TorchNoise,
    noise_stream,
)
from latentrt.runtime.noise.brownian import path_terms

SHAPE = (4, 128, 128)
DEVIATIONS = 5.0
"""Of an estimate from the numbers of one array of `SHAPE`: the seeds are fixed, nothing flickers,
and a law that is off by a twentieth is ten of them away."""

Levels = tuple[float, float]

# Stable Diffusion's range, its ends, and far beyond: within an octave, across it, across many.
STEPS: list[Levels] = [
    (14.6146, 11.7),
    (11.7, 8.1),
    (8.1, 8.0),
    (3.0, 0.5),
    (0.0292, 0.0),
    (0.031, 0.0292),
    (1e-7, 3e-8),
    (4096.0, 14.6146),
    (1e6, 4096.0),
    (1e6, 0.0),
    (1.0, 1.0 - 2.0**-13),
]


def brownian(seed: int = 0) -> BrownianNoise:
    return BrownianNoise(TorchNoise(seed), seed)


def rise(noise: BrownianNoise, step: Levels, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float64]:
    """W at the end of a step less W at its beginning, flat."""
    drawn = noise.increment(shape, *step)
    assert drawn.dtype == np.float32
    assert drawn.shape == shape
    return drawn.ravel().astype(np.float64) * math.sqrt(abs(step[1] - step[0]))


def assert_correlation(one: NDArray[np.float64], other: NDArray[np.float64], rho: float) -> None:
    """Hold the correlation of centred unit normals against theory."""
    deviation = math.sqrt((1.0 + rho**2) / one.size)
    assert abs(float(np.mean(one * other)) - rho) <= DEVIATIONS * deviation


@pytest.mark.parametrize("step", STEPS)
def test_an_increment_is_standard_normal(step: Levels) -> None:
    drawn = brownian(1).increment(SHAPE, *step).ravel().astype(np.float64)
    assert_correlation(drawn, np.ones_like(drawn), 0.0)
    assert_correlation(drawn, drawn, 1.0)
    # Kolmogorov's distance from the normal law, which exceeds 1.95 / sqrt(n) once in a thousand.
    law = 0.5 + 0.5 * np.array([math.erf(x) for x in np.sort(drawn) / math.sqrt(2.0)])
    steps = np.arange(drawn.size + 1) / drawn.size
    distance = max(float(np.max(steps[1:] - law)), float(np.max(law - steps[:-1])))
    assert distance <= 1.95 / math.sqrt(drawn.size)


def test_the_numbers_of_an_increment_are_independent() -> None:
    drawn = brownian(2).increment(SHAPE, 14.6146, 11.7).ravel().astype(np.float64)
    for lag in (1, 2, 64, 128, 8192, 16384, 32768):
        assert_correlation(drawn[lag:], drawn[:-lag], 0.0)
        # Of their squares too: a radius used twice would show here alone.
        squares = (drawn**2 - 1.0) / math.sqrt(2.0)
        assert_correlation(squares[lag:], squares[:-lag], 0.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((14.6146, 11.7), (11.7, 8.1)),
        ((14.6146, 8.1), (11.7, 8.1)),
        ((14.6146, 8.1), (11.7, 3.0)),
        ((8.1, 14.6146), (11.7, 3.0)),
        ((3.0, 0.5), (2.9, 2.8)),
        ((1e6, 0.0), (4096.0, 14.6146)),
        ((1e6, 3e5), (7e5, 6e5)),
        ((0.0292, 0.0), (0.031, 0.0292)),
        ((9.0, 8.0), (12.0, 9.0)),
        ((1.0, 1.0 - 2.0**-13), (1.0 - 2.0**-13, 1.0 - 2.0**-12)),
        ((0.0, 1e-7), (1e-7, 3e-7)),
    ],
)
def test_increments_correlate_by_what_they_share(one: Levels, other: Levels) -> None:
    noise = brownian(3)
    shared = min(max(one), max(other)) - max(min(one), min(other))
    lengths = abs(one[1] - one[0]) * abs(other[1] - other[0])
    sign = math.copysign(1.0, (one[1] - one[0]) * (other[1] - other[0]))
    rho = sign * max(shared, 0.0) / math.sqrt(lengths)
    first, second = (noise.increment(SHAPE, *step).astype(np.float64) for step in (one, other))
    assert_correlation(first, second, rho)


def octave_of(level: float) -> float:
    """The bottom of a level's octave: the power of two below it, or 0 under 2**-20."""
    return 2.0 ** math.floor(math.log2(level)) if level >= 2.0**-20 else 0.0


levels = st.one_of(
    st.floats(0.0, 20.0),
    st.floats(0.0, 1e6),
    st.integers(-60, 20).map(lambda exponent: 2.0**exponent),
    st.just(0.0),
)


@settings(deadline=None)
@given(level=levels, share=st.floats(0.0, 1.0))
def test_the_terms_of_two_levels_have_a_brownian_covariance(level: float, share: float) -> None:
    bottom = octave_of(level)
    other = bottom + share * (level - bottom)
    near = abs(level - other) < 2.0**-14 * max(level, 2.0**-20)
    one, two = dict(path_terms(level)), dict(path_terms(other))
    variance = math.fsum(coefficient**2 for coefficient in one.values())
    # Sums of at most 16 products, each rounded to 2**-53 of itself.
    exactly = 1e-14 * max(level, 2.0**-20)
    assert abs(variance - (level - bottom)) <= exactly
    covariance = math.fsum(one[node] * two[node] for node in one.keys() & two.keys())
    # Two levels that close share their last interval, whose length bounds what is missing.
    allowed = exactly + (2.0**-14 * max(bottom, 2.0**-20) if near else 0.0)
    assert abs(covariance - (other - bottom)) <= allowed


small = (3, 5)


@settings(deadline=None)
@given(start=levels, middle=levels, end=levels, seed=st.integers(0, 3))
def test_a_step_cut_in_two_has_the_noise_of_the_whole(
    start: float, middle: float, end: float, seed: int
) -> None:
    noise = brownian(seed)
    whole = rise(noise, (start, end), small)
    parts = rise(noise, (start, middle), small) + rise(noise, (middle, end), small)
    # Each of the three is rounded to 2**-24 of a number that is at most 6 of its deviations.
    longest = max(abs(end - start), abs(middle - start), abs(end - middle))
    assert np.max(np.abs(whole - parts)) <= 3 * 6 * 2.0**-24 * math.sqrt(longest)


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(st.tuples(levels, levels, st.booleans()), max_size=8))
def test_earlier_calls_do_not_change_the_path(steps: list[tuple[float, float, bool]]) -> None:
    noise = brownian(4)
    for start, end, wide in steps:
        shape = (4, 7) if wide else small
        expected = brownian(4).increment(shape, start, end)
        np.testing.assert_array_equal(noise.increment(shape, start, end), expected)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_back_is_the_step_turned_over(step: Levels) -> None:
    there, back = brownian().increment(small, *step), brownian().increment(small, *step[::-1])
    np.testing.assert_array_equal(there, -back)


def test_the_path_and_the_stream_do_not_move_each_other() -> None:
    noise, stream = brownian(6), TorchNoise(6)
    quiet = brownian(6).increment(small, 9.0, 4.0)
    for shape in ((4, 9), (5,)):
        np.testing.assert_array_equal(noise.normal(shape), stream.normal(shape))
        np.testing.assert_array_equal(noise.increment(small, 9.0, 4.0), quiet)


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_path_is_the_seeds_whatever_the_generator(generator: str) -> None:
    drawn = noise_stream(generator, 7, brownian=True).increment(small, 9.0, 4.0)
    np.testing.assert_array_equal(drawn, brownian(7).increment(small, 9.0, 4.0))


@pytest.mark.parametrize("seed", [1, 2**32, 2**63, -1])
def test_paths_of_two_seeds_are_independent(seed: int) -> None:
    one, other = (rise(brownian(each), (9.0, 8.0)) for each in (0, seed))
    assert_correlation(one, other, 0.0)


def test_a_path_is_independent_of_its_stream() -> None:
    for stream in (TorchNoise(8), NumpyNoise(8)):
        noise = BrownianNoise(stream, 8)
        start = noise.normal(SHAPE).ravel().astype(np.float64)
        assert_correlation(start, rise(noise, (9.0, 8.0)), 0.0)


def test_a_step_of_no_length_has_no_noise() -> None:
    np.testing.assert_array_equal(brownian().increment(small, 2.5, 2.5), np.zeros(small))
    np.testing.assert_array_equal(brownian().increment(small, 0.0, 0.0), np.zeros(small))


@pytest.mark.parametrize("level", [-0.1, math.nan, math.inf])
def test_impossible_noise_levels_are_refused_by_name(level: float) -> None:
    with pytest.raises(InputError, match=r"^sigma: expected a finite noise level from 0, got "):
        brownian().increment(small, level, 1.0)
    with pytest.raises(InputError, match=r"^sigma_next: expected a finite noise level from 0"):
        brownian().increment(small, 1.0, level)
