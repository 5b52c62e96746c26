"""The schedule of Euler's method."""

from __future__ import annotations

import math
from dataclasses import replace

from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.k_diffusion import discrete_levels
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["euler_schedule"]


def euler_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' EulerDiscreteScheduler.

    Raises InputError for what the config's keys cannot be, and for wishes that the class has no
    place for.

    Source: arXiv:2206.00364, Alg. 1; diffusers' `EulerDiscreteScheduler.set_timesteps`.
    """
    wanted.refuse(config.class_name, "eta")
    prediction_type: PredictionType = config.choice("prediction_type", PREDICTION_TYPES)
    log_linear = config.choice("interpolation_type", ("linear", "log_linear")) == "log_linear"
    levels = discrete_levels(config, wanted, log_linear=log_linear)
    # As diffusers: null is not "continuous", which is all that it asks.
    kind = config.values["timestep_type"]
    continuous = kind is not None and (
        config.choice("timestep_type", ("discrete", "continuous")) == "continuous"
    )
    if continuous and prediction_type == "v_prediction":
        told = tuple(0.25 * math.log(sigma) for sigma in levels.sigmas[:-1])
        levels = replace(levels, timesteps=told)
    return Schedule(
        sampler="euler",
        evaluations=levels.evaluations(),
        init_scale=levels.init_scale,
        final_scale=1.0,
        prediction_type=prediction_type,
    )
