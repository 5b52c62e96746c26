"""Keeping an estimate of x0 in range."""

from __future__ import annotations

import numpy as np

from latentrt.runtime.samplers.denoise import Array
from latentrt.runtime.schedules.schedule import Clipping

__all__ = ["clip"]


def clip(denoised: Array, clipping: Clipping | None) -> Array:
    """The estimate, float32 [channels, h, w], clipped or thresholded, or as it is for None.

    Source: arXiv:2205.11487, section 2.3 (dynamic thresholding).
    """
    if clipping is None:
        return denoised
    scale = clipping.scale
    if clipping.quantile is None:
        return np.clip(denoised, -clipping.limit / scale, clipping.limit / scale)
    reach = float(np.quantile(np.abs(denoised), clipping.quantile)) * scale
    reach = min(max(reach, 1.0), clipping.limit)
    return np.clip(denoised, -reach / scale, reach / scale) / reach
