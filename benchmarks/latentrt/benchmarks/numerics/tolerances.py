"""How far an engine may be from PyTorch: steps of a run, pictures, and layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from latentrt.benchmarks.numerics.reference import Reference
from latentrt.engines.verification.tolerances import TOLERANCES
from latentrt.runtime.schedules import Schedule

LAYERS: Final[Mapping[str, Mapping[str, float]]] = {
    # Rounding alone: three to five times the largest error measured, with ONNX Runtime and
    # OpenVINO. That is over the tests' tiny models, models/shapes and random:sd15 at 512x512. Text
    # encoder 1.2e-6, U-Net 5.8e-6 (sines of timesteps near 1000), VAE 3.9e-5 (ONNX Runtime's
    # GroupNormalization of 2 million numbers; OpenVINO 3.3e-6). A weight that is 1 % wrong moves
    # its own layer by 1e-3 or more.
    "fp32": {"text_encoder": 5e-6, "unet": 2.5e-5, "vae": 1.2e-4},
    # Twice those of whole components, which were not measured on a GPU either.
    "fp16": {"text_encoder": 5e-3, "unet": 1e-2, "vae": 1e-2},
    # Four to five times the most over the tiny models and models/shapes with OpenVINO: 7.1e-3,
    # 1.1e-2, 2.0e-2. A weight that is 1 % wrong does not show above that.
    "bf16": {"text_encoder": 3e-2, "unet": 5e-2, "vae": 8e-2},
}
"""Largest relative error of a layer's output, by precision and kind of component."""


def layer_tolerance(component: str, precision: str) -> float:
    """The largest relative error of a layer's output."""
    kind = next(kind for kind in ("text_encoder", "unet", "vae") if component.startswith(kind))
    return LAYERS[precision][kind]


@dataclass(frozen=True, slots=True)
class RunTolerances:
    """Limits for what several components compute together: those of the loosest one involved.

    Relative errors of the prompt states, a step alone and a step of the run; `psnr` is in decibels.
    """

    prompts: float
    alone: float
    steps: float
    psnr: float

    @staticmethod
    def of(precisions: Mapping[str, str]) -> RunTolerances:
        """For components in these precisions, by component."""
        each = {name: TOLERANCES[precision] for name, precision in precisions.items()}
        text = [tolerance for name, tolerance in each.items() if name.startswith("text_encoder")]
        run = [*text, each["unet"]]
        return RunTolerances(
            prompts=max(tolerance.text_encoder for tolerance in text),
            alone=each["unet"].alone,  # it is given PyTorch's prompt states and latents
            steps=max(tolerance.step for tolerance in run),
            psnr=min(tolerance.psnr for tolerance in (*run, each["vae_decoder"])),
        )


def step_tolerances(
    reference: Reference, schedule: Schedule, allowed: float, *, carried: bool
) -> list[float]:
    """The tolerance of every step; `carried`: errors add up, so none is less than those before."""
    start = reference.tensors["run/latents"] * np.float32(
        schedule.init_scale * schedule.final_scale
    )
    count = len(reference.tensors["run/timesteps"])
    latents = [start, *(reference.latents(i) for i in range(count))]
    norms = [float(np.linalg.norm(each.astype(np.float64))) for each in latents]
    own = [cancelling_tolerance(allowed, *pair) for pair in itertools.pairwise(norms)]
    return list(itertools.accumulate(own, max)) if carried else own


def cancelling_tolerance(allowed: float, before: float, after: float) -> float:
    """The largest relative error of a latent after one step of Euler's method.

    A step from level s to level t is x' = x + (t - s) d, with d = (x - denoised) / s. An error e
    of `denoised` becomes an error (1 - t / s) e of x'. That error, relative to x', is `allowed`.

    A step from level 4096, as at zero terminal SNR, cancels almost all of x. In float32 x lies on a
    grid of q = 2**-23 |x|, which may be coarser than e. Rounding then moves a share e / q of the
    numbers by a whole q: the mean square is e q, not e**2. Three operations round on that grid:
    x - denoised, d and (t - s) d. The sum is sqrt(e**2 + 3 e q), with e and q relative to x'.

    `before` and `after` are the norms of x and x'. Where both are as large, the result is within
    2 % of `allowed` in fp32.
    """
    if not (0.0 < after < math.inf and before < math.inf):
        return allowed
    grid = 2.0**-23 * before / after
    return math.sqrt(allowed**2 + 3 * allowed * grid)
