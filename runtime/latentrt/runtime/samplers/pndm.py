"""Pseudo numerical methods: linear multistep after a single-step warm-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from latentrt.runtime.noise import Noise
from latentrt.runtime.prediction import PredictionType
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.samplers.level import relabelled
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["pndm"]

_MULTISTEP: Final = (
    (1.0,),
    (-1 / 2, 3 / 2),
    (5 / 12, -16 / 12, 23 / 12),
    (-9 / 24, 37 / 24, -59 / 24, 55 / 24),
)
"""Adams and Bashforth's weights of the last outputs, oldest first, for one to four of them."""

_SINGLE_STEP: Final = {2: (1 / 2, 1 / 2), 4: (1 / 6, 1 / 3, 1 / 3, 1 / 6)}
"""The weights of a step's own outputs: the improved Euler method's, and Runge and Kutta's."""


def pndm(
    latent: Array,
    schedule: Schedule,
    *,
    noise: Noise,
    starts: tuple[float, ...],
    ends: tuple[float, ...],
) -> Sampler:
    """Steps like DDIM's along a combination of model outputs, of this step or of those before.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    `starts` and `ends`, one of each per evaluation, are the levels between which it takes the
    latent that its step began with. Each step's first output is remembered. Draws no noise.

    Source: arXiv:2202.09778, Alg. 2 and eq. 9 (the step), 12 and 13 (the combinations), for latents
    divided by the square root of alpha.
    """
    first = schedule.evaluations[0].sigma
    origin, origin_level, level = latent, first, first
    remembered: list[Array] = []
    outputs: list[Array] = []
    stages = [*(e.stage for e in schedule.evaluations), 0]
    for e, next_stage, start, end in zip(
        schedule.evaluations, stages[1:], starts, ends, strict=True
    ):
        latent = relabelled(latent, level, e.sigma)
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        output = _model_output(latent, denoised, e.sigma, schedule.prediction_type)
        if e.stage == 0:
            origin, origin_level, outputs = latent, e.sigma, []
            remembered = [*remembered[-3:], output]
        outputs = [*outputs, output]
        if next_stage == 0 and e.stage == 0:
            output = _combined(_MULTISTEP[len(remembered) - 1], remembered)
        elif next_stage == 0:
            output = _combined(_SINGLE_STEP[len(outputs)], outputs)
        latent = relabelled(origin, origin_level, start)
        noise_pred = _noise_pred(latent, output, start, schedule.prediction_type)
        latent = noise_pred * (end - start) + latent
        level = end
    return latent


def _combined(weights: Sequence[float], outputs: Sequence[Array]) -> Array:
    """The weighted sum of arrays."""
    total = outputs[0] * weights[0]
    for weight, output in zip(weights[1:], outputs[1:], strict=True):
        total = output * weight + total
    return total


def _model_output(
    latent: Array, denoised: Array, sigma: float, prediction_type: PredictionType
) -> Array:
    """What the model said, guidance included: the inverse of `prediction.denoised`."""
    if prediction_type == "epsilon":
        return (latent - denoised) / sigma
    variance = sigma * sigma + 1.0
    kept: Array = latent / variance
    return (kept - denoised) * (math.sqrt(variance) / sigma)


def _noise_pred(
    latent: Array, output: Array, sigma: float, prediction_type: PredictionType
) -> Array:
    """The noise that a model output stands for in a latent of a level that it was not made at."""
    if prediction_type == "epsilon":
        return output
    variance = sigma * sigma + 1.0
    share: Array = latent * (sigma / variance)
    return output / math.sqrt(variance) + share
