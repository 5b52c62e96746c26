"""The schedule of DDIM."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from latentrt.bundle.errors import InputError
from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.betas import cumulative_alphas, train_timesteps
from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Evaluation, Schedule
from latentrt.runtime.schedules.spacing import spaced_timesteps

__all__ = ["ddim_schedule"]

_ZERO_SIGNAL: Final = 2.0**-40
"""Stands for a cumulative alpha of 0, whose level would be infinite; the result is 4e-6 off."""


def ddim_schedule(config: SchedulerConfig, steps: int) -> Schedule:
    """What diffusers' DDIMScheduler evaluates in `steps` steps.

    A step goes down by `num_train_timesteps // steps`, wherever the next listed timestep lies.
    Raises InputError for timesteps the model does not have, and for noise prediction where there is
    nothing but noise.

    Source: arXiv:2010.02502, eq. 12.
    """
    train = train_timesteps(config)
    alphas = cumulative_alphas(config, floor=_ZERO_SIGNAL)
    sigmas = [math.sqrt((1.0 - alpha) / alpha) for alpha in alphas.tolist()]
    last = 0.0 if config.flag("set_alpha_to_one") else sigmas[0]
    timesteps = [int(t) for t in np.round(spaced_timesteps(config, steps)).tolist()]
    prediction_type: PredictionType = config.choice("prediction_type", PREDICTION_TYPES)
    if timesteps[0] >= train:
        raise InputError("steps", f"timesteps below {train} with this steps_offset", timesteps[0])
    clip = clipping(config, clip_sample=True)
    # The estimate of x0 is infinite there, and only plain clipping makes something of that.
    clipped = clip is not None and clip.quantile is None
    if prediction_type == "epsilon" and alphas[timesteps[0]] == _ZERO_SIGNAL and not clipped:
        raise InputError("prediction_type", "v_prediction or sample at zero SNR", "epsilon")
    below = [t - train // steps for t in timesteps]
    evaluations = tuple(
        Evaluation(float(t), sigmas[t], sigmas[s] if s >= 0 else last)
        for t, s in zip(timesteps, below, strict=True)
    )
    return Schedule(
        sampler="ddim",
        evaluations=evaluations,
        init_scale=math.sqrt(evaluations[0].sigma ** 2 + 1.0),
        final_scale=1.0 / math.sqrt(evaluations[-1].sigma_next ** 2 + 1.0),
        prediction_type=prediction_type,
        clipping=clip,
    )
