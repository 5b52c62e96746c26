"""Schedules on the timesteps of training, for samplers that diffusers keeps at unit variance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from latentrt.bundle.errors import InputError
from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.betas import cumulative_alphas, train_timesteps
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Clipping, Evaluation, Option, Schedule
from latentrt.runtime.schedules.spacing import spaced_timesteps
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["last_level", "trained_levels", "trained_schedule", "whole_timesteps"]

_ZERO_SIGNAL: Final = 2.0**-60
"""Stands for a cumulative alpha of 0, whose level would be infinite; this one is 2**30."""


_NOISE_ALONE: Final = math.sqrt((1.0 - _ZERO_SIGNAL) / _ZERO_SIGNAL)
"""The noise level at data scale 1 of that share of signal variance."""


def trained_levels(config: SchedulerConfig) -> list[float]:
    """The noise level of every training timestep; about 1e9 at zero terminal SNR.

    It is infinite where other betas leave no signal.
    """
    alphas = cumulative_alphas(config, floor=_ZERO_SIGNAL).astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.sqrt((1.0 - alphas) / alphas).tolist()


def last_level(config: SchedulerConfig, levels: Sequence[float]) -> float:
    """The level of what lies before the first timestep: none, or that timestep's own."""
    return 0.0 if config.flag("set_alpha_to_one") else levels[0]


def whole_timesteps(config: SchedulerConfig, wanted: Wanted) -> list[int]:
    """The timesteps of a run, from the noisiest down, each one that the model was trained on.

    Raises InputError for those that it was not.
    """
    train = train_timesteps(config)
    spaced = spaced_timesteps(config, wanted)
    timesteps = np.round(spaced)
    if wanted.timesteps is not None and not np.array_equal(spaced, timesteps):
        raise InputError("timesteps", f"whole numbers with {config.class_name}", wanted.timesteps)
    if timesteps[0] >= train:
        raise InputError("steps", f"timesteps below {train} with this steps_offset", timesteps[0])
    return [int(t) for t in timesteps.tolist()]


def trained_schedule(
    config: SchedulerConfig,
    sampler: str,
    evaluations: tuple[Evaluation, ...],
    *,
    clipping: Clipping | None,
    options: Mapping[str, Option],
    predictions: tuple[PredictionType, ...] = PREDICTION_TYPES,
) -> Schedule:
    """A schedule that enters and leaves its levels at unit variance.

    Raises InputError for a prediction type that is not among `predictions`, and for noise
    prediction where there is nothing but noise.
    """
    prediction_type: PredictionType = config.choice("prediction_type", predictions)
    # The estimate of x0 is infinite there, and only plain clipping makes something of that.
    clipped = clipping is not None and clipping.quantile is None
    first, last = evaluations[0].sigma, evaluations[-1].sigma_next
    if prediction_type == "epsilon" and first == _NOISE_ALONE and not clipped:
        raise InputError("prediction_type", "v_prediction or sample at zero SNR", "epsilon")
    return Schedule(
        sampler=sampler,
        evaluations=evaluations,
        init_scale=math.sqrt(first**2 + 1.0),
        final_scale=1.0 / math.sqrt(last**2 + 1.0),
        prediction_type=prediction_type,
        clipping=clipping,
        options=options,
    )
