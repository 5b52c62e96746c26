"""How alike two pictures are to the eye."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SIDE: Final = 11
_SIGMA: Final = 1.5
_K1: Final = 0.01
_K2: Final = 0.03


def ssim(actual: NDArray[Any], reference: NDArray[Any], *, peak: float) -> float:
    """Structural similarity, at most 1 (equal pictures).

    Both are [channels, height, width], at least 11 pixels high and wide; `peak` is the range of
    their values. Statistics are those under a Gaussian window of 11 x 11 and standard deviation
    1.5, wherever it fits inside the picture. The result is the mean over places and channels.
    Raises `ValueError` for shapes that differ or are too small.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity" (IEEE Transactions on Image Processing, 2004), eq. 13 and section III-B.
    """
    if actual.shape != reference.shape or min(actual.shape[1:]) < _SIDE:
        raise ValueError(f"shapes {actual.shape} and {reference.shape}")
    a, b = actual.astype(np.float64), reference.astype(np.float64)
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a = _blurred(a * a) - mean_a**2
    variance_b = _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    most = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return float(np.mean(likeness / most))


def _blurred(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gaussian mean about every place where the window fits."""
    away = np.arange(_SIDE) - _SIDE // 2
    weights = np.exp(-(away**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(picture, _SIDE, axis=axis)
        picture = windows @ weights
    return picture
