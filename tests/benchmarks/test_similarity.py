"""SSIM against its definition, evaluated by PyTorch, and against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.similarity import ssim

PICTURE = np.random.default_rng(0).random((3, 40, 29), np.float32)


def by_convolution(a: NDArray[Any], b: NDArray[Any], peak: float) -> float:
    """Wang et al., eq. 13, with local moments about the local mean by one 11 x 11 convolution."""
    rows, columns = torch.meshgrid(*[torch.arange(-5, 6).double()] * 2, indexing="ij")
    window = torch.exp(-(rows**2 + columns**2) / (2 * 1.5**2))
    weights = (window / window.sum()).reshape(1, 121, 1)
    x, y = (
        torch.nn.functional.unfold(torch.from_numpy(each).double()[:, None], 11) for each in (a, b)
    )
    mean_x, mean_y = ((each * weights).sum(1, keepdim=True) for each in (x, y))
    var_x, var_y, cov = (
        (each * weights).sum(1, keepdim=True)
        for each in ((x - mean_x) ** 2, (y - mean_y) ** 2, (x - mean_x) * (y - mean_y))
    )
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


@pytest.mark.parametrize("spread", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_ssim_is_its_definition(spread: float, peak: float) -> None:
    noise = np.random.default_rng(1).standard_normal(PICTURE.shape, np.float32)
    a = PICTURE * np.float32(peak)
    b = a + np.float32(spread * peak) * noise
    # float64 on both sides; ours has variances as differences of squares.
    assert math.isclose(ssim(b, a, peak=peak), by_convolution(b, a, peak), abs_tol=1e-12)


def test_ssim_of_equal_pictures_is_1() -> None:
    assert math.isclose(ssim(PICTURE, PICTURE, peak=1.0), 1.0, abs_tol=1e-14)


def test_ssim_of_two_plain_pictures_is_the_likeness_of_their_values() -> None:
    a, b = np.full((3, 11, 11), 0.25), np.full((3, 11, 11), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert math.isclose(ssim(a, b, peak=1.0), expected, rel_tol=1e-12)


def test_ssim_of_a_negative_about_the_same_mean_is_below_zero() -> None:
    board = (np.indices((20, 20)).sum(0) % 2).astype(np.float32)[None]
    assert -1 < ssim(1 - board, board, peak=1.0) < -0.99


@pytest.mark.parametrize("shape", [(3, 40, 28), (3, 10, 40), (1, 40, 29)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    other = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="shapes"):
        ssim(other, other if shape[1] < 11 else PICTURE, peak=1.0)
