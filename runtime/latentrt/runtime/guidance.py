"""Classifier-free guidance on model outputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.request import Guidance


def guide(
    negative: NDArray[np.float32], positive: NDArray[np.float32], guidance: Guidance
) -> NDArray[np.float32]:
    """One guided model output from the two rows of a sample, each float32 [c, h, w].

    Source: arXiv:2207.12598, eq. 6 (in diffusers' convention: 1 is no guidance);
    rescaling, arXiv:2305.08891, eq. 15 and 16, with the unbiased deviation diffusers takes.
    """
    step: NDArray[np.float32] = (positive - negative) * guidance.scale
    guided: NDArray[np.float32] = negative + step
    if guidance.rescale == 0:
        return guided
    ratio = float(positive.std(ddof=1)) / float(guided.std(ddof=1))
    return guided * (guidance.rescale * ratio + (1 - guidance.rescale))
