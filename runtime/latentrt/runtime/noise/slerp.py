"""Noise between two noises."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["slerp"]

_ALIKE: Final = 0.9995
"""The mean cosine from which a straight line is taken: an arc has no direction."""


def slerp(low: NDArray[np.float32], high: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """From `low` at share 0 to `high` at 1, along an arc, so that the variance stays.

    Both are float32 [c, h, w], and so is the result. Each column of a channel has an arc of its
    own.

    Source: `slerp` of the web UI's `modules/rng.py`, after the article of K. Shoemake (1985).
    """
    a, b = (each.astype(np.float64) for each in (low, high))
    units = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b)]
    cosine = np.clip((units[0] * units[1]).sum(axis=1, keepdims=True), -1.0, 1.0)
    if cosine.mean() > _ALIKE:
        return (a * (1.0 - share) + b * share).astype(np.float32)
    angle = np.arccos(cosine)
    mixed: NDArray[np.float64] = np.sin((1.0 - share) * angle) * a + np.sin(share * angle) * b
    return (mixed / np.sin(angle)).astype(np.float32)
