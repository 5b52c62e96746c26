"""The one metric, against values worked out by hand and NumPy's formulas."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.bundle.golden import Difference, psnr

# Float64 on both sides; the order of a sum is the only freedom.
ROUNDING = 1e-14


def test_difference_of_a_triangle_worked_out_by_hand() -> None:
    # The reference has length 5, the error (0.3, -0.4) length 0.5; the dot product is 24.3.
    found = Difference.between(np.array([3.3, 3.6]), np.array([3.0, 4.0]))
    assert found.relative == pytest.approx(0.1, rel=ROUNDING)
    assert found.max_abs == pytest.approx(0.4, rel=ROUNDING)
    assert found.cosine == pytest.approx(24.3 / (5 * math.hypot(3.3, 3.6)), rel=ROUNDING)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 5, 7)])
def test_difference_is_numpys_norms(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    b = rng.standard_normal(shape)
    a = b + 1e-3 * rng.standard_normal(shape)
    found = Difference.between(a, b)
    assert found.relative == pytest.approx(np.sqrt(((a - b) ** 2).sum() / (b**2).sum()), rel=1e-12)
    assert found.max_abs == np.max(np.abs(a - b))
    cosine = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    assert found.cosine == pytest.approx(cosine, rel=ROUNDING)


def test_relative_error_is_relative_to_the_reference() -> None:
    twice, once = np.array([2.0, 2.0]), np.array([1.0, 1.0])
    assert Difference.between(twice, once).relative == 1.0
    assert Difference.between(once, twice).relative == 0.5


@pytest.mark.parametrize(("sign", "cosine"), [(1, 1.0), (-1, -1.0)])
def test_cosine_is_blind_to_scale(sign: int, cosine: float) -> None:
    b = np.arange(1.0, 9.0)
    assert Difference.between(3 * sign * b, b).cosine == pytest.approx(cosine, rel=ROUNDING)


def test_cosine_of_a_right_angle_is_zero() -> None:
    assert Difference.between(np.array([0.0, 2.0]), np.array([1.0, 0.0])).cosine == 0.0


def test_equal_arrays_differ_by_nothing() -> None:
    b = np.linspace(-3, 3, 50, dtype=np.float32)
    found = Difference.between(b, b.copy())
    assert (found.relative, found.max_abs) == (0.0, 0.0)
    assert found.cosine == pytest.approx(1.0, rel=ROUNDING)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["actual", "reference"])
def test_nan_or_infinity_anywhere_gives_infinite_errors(bad: float, side: str) -> None:
    good = np.ones((2, 3), dtype=np.float32)
    damaged = good.copy()
    damaged[1, 1] = bad
    pair = (damaged, good) if side == "actual" else (good, damaged)
    assert Difference.between(*pair) == Difference(math.inf, math.inf, -1.0)


def test_nothing_equals_a_zero_reference_but_zero() -> None:
    zero = np.zeros(3, dtype=np.float32)
    assert Difference.between(zero, zero) == Difference(0.0, 0.0, 1.0)
    found = Difference.between(np.array([0.0, -2.0, 1.0]), zero)
    assert found == Difference(math.inf, 2.0, 0.0)


def test_zeros_have_a_relative_error_of_1() -> None:
    assert Difference.between(np.zeros(2), np.array([3.0, -4.0])) == Difference(1.0, 4.0, 0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, np.int8, np.uint8])
def test_difference_is_computed_in_float64(dtype: Any) -> None:
    # 200 values of 100: their squares and differences overflow the smaller types.
    a, b = np.full(200, 100).astype(dtype), np.full(200, 120).astype(dtype)
    found = Difference.between(a, b)
    assert found.relative == pytest.approx(20 / 120, rel=1e-12)
    assert found.max_abs == 20.0


def test_float32_rounding_is_resolved() -> None:
    b = np.ones(1000, dtype=np.float32)
    a = b.copy()
    a[0] += np.float32(2**-23)
    assert Difference.between(a, b).relative == pytest.approx(2**-23 / math.sqrt(1000), rel=1e-12)


def test_arrays_of_no_elements_are_equal() -> None:
    assert Difference.between(np.zeros((0, 4)), np.zeros((0, 4))) == Difference(0.0, 0.0, 1.0)


def test_arrays_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: \(4,\) and \(2, 2\)"):
        Difference.between(np.zeros(4), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("error", "peak", "decibel"),
    [(0.1, 1.0, 20.0), (0.01, 1.0, 40.0), (0.2, 2.0, 20.0), (255.0, 255.0, 0.0)],
)
def test_psnr_of_a_constant_error_is_the_ratio_in_decibel(
    error: float, peak: float, decibel: float
) -> None:
    reference = np.linspace(-1, 1, 48).reshape(3, 4, 4)
    assert psnr(reference + error, reference, peak=peak) == pytest.approx(decibel, abs=1e-10)


def test_psnr_is_numpys_mean_square() -> None:
    rng = np.random.default_rng(5)
    a = rng.uniform(-1, 1, (3, 8, 8)).astype(np.float32)
    b = rng.uniform(-1, 1, (3, 8, 8)).astype(np.float32)
    mse = np.square(a.astype(np.float64) - b).mean()
    assert psnr(a, b, peak=2.0) == pytest.approx(10 * np.log10(4 / mse), rel=ROUNDING)


def test_psnr_of_equal_pictures_is_infinite() -> None:
    picture: NDArray[Any] = np.full((2, 2, 3), 7, dtype=np.uint8)
    assert psnr(picture, picture.copy(), peak=255.0) == math.inf


def test_psnr_of_bytes_does_not_wrap_around() -> None:
    # 0 - 255 is 1 in eight bits.
    black, white = np.zeros(12, np.uint8), np.full(12, 255, np.uint8)
    assert psnr(black, white, peak=255.0) == pytest.approx(0.0, abs=1e-12)
