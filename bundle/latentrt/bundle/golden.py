"""Names of the goldens, and the one metric that all comparisons use.

Names inside `golden.safetensors`, all float32 (integers int64):

- `<component>/inputs/<name>` and `<component>/outputs/<name>`: one evaluation of each component.
- `run/input_ids` and `run/negative_input_ids` [1, 77]: the prompt's and the empty prompt's tokens.
- `run/latents` [1, c, h, w]: the starting noise of unit variance.
- `run/timesteps` [n] and `run/sigmas` [n + 1]: of an Euler run.
- `run/steps/<i>/latents` [1, c, h, w]: after step i, as x0 + sigma * noise, with x0 at the scale of
  the model's data.
- `run/images` [1, 3, H, W]: in [-1, 1].
- `run/guidance_scale` [1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUN_PROMPT = "a large red circle on a blue background"
RUN_STEPS = 4
RUN_GUIDANCE_SCALE = 5.0


@dataclass(frozen=True, slots=True)
class Difference:
    """The error of an array against its reference, computed in float64.

    `relative` is ||a - b|| / ||b||, `max_abs` the largest |a - b|, `cosine` that of the angle.
    """

    relative: float
    max_abs: float
    cosine: float

    @staticmethod
    def between(actual: NDArray[Any], reference: NDArray[Any]) -> Difference:
        """The difference of two arrays of the same shape; NaN or infinity gives infinite errors."""
        if actual.shape != reference.shape:
            raise ValueError(f"shapes differ: {actual.shape} and {reference.shape}")
        a = actual.astype(np.float64).ravel()
        b = reference.astype(np.float64).ravel()
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return Difference(math.inf, math.inf, -1.0)
        error = a - b
        size = float(np.linalg.norm(b))
        off = float(np.linalg.norm(error))
        relative = off / size if size else (0.0 if off == 0 else math.inf)
        scale = float(np.linalg.norm(a)) * size
        cosine = float(a @ b) / scale if scale else float(off == 0)
        return Difference(relative, float(np.abs(error).max(initial=0.0)), cosine)


def psnr(actual: NDArray[Any], reference: NDArray[Any], *, peak: float) -> float:
    """Peak signal-to-noise ratio in decibel (inf for equal arrays); `peak` is the value range."""
    error = np.mean((actual.astype(np.float64) - reference.astype(np.float64)) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(peak**2 / error))
