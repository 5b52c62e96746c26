"""The schedule of Euler's method."""

from __future__ import annotations

import math

import numpy as np

from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.betas import cumulative_alphas, sigma_table, train_timesteps
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Evaluation, Schedule
from latentrt.runtime.schedules.spacing import respaced_sigmas, spaced_timesteps, timesteps_of

__all__ = ["euler_schedule"]


def euler_schedule(config: SchedulerConfig, steps: int) -> Schedule:
    """What diffusers' EulerDiscreteScheduler evaluates in `steps` steps.

    Timesteps stay fractional; karras and exponential levels span those that the timestep spacing
    would have visited. Raises InputError for what the class has and is not built.

    Source: arXiv:2206.00364, Alg. 1; diffusers' `EulerDiscreteScheduler.set_timesteps`.
    """
    config.choice("interpolation_type", ("linear",))
    prediction_type: PredictionType = config.choice("prediction_type", PREDICTION_TYPES)
    table = sigma_table(cumulative_alphas(config, floor=2.0**-24))
    timesteps = spaced_timesteps(config, steps).astype(np.float32)
    levels = np.interp(timesteps, np.arange(train_timesteps(config)), table)
    respaced = respaced_sigmas(config, float(levels[-1]), float(levels[0]), steps)
    if respaced is not None:
        levels, timesteps = respaced, timesteps_of(respaced, table).astype(np.float32)
    final = config.choice("final_sigmas_type", ("zero", "sigma_min"))
    last = 0.0 if final == "zero" else float(table[0])
    sigmas = [*levels.astype(np.float32).tolist(), last]
    kind = config.choice("timestep_type", ("discrete", "continuous"))
    if kind == "continuous" and prediction_type == "v_prediction":
        told = [0.25 * math.log(sigma) for sigma in sigmas[:-1]]
    else:
        told = [float(t) for t in timesteps]
    # As diffusers: only leading spacing allows for the data's own variance at the first level.
    leading = config.values["timestep_spacing"] == "leading"
    return Schedule(
        sampler="euler",
        evaluations=tuple(map(Evaluation, told, sigmas[:-1], sigmas[1:])),
        init_scale=math.sqrt(sigmas[0] ** 2 + 1.0) if leading else sigmas[0],
        final_scale=1.0,
        prediction_type=prediction_type,
    )
