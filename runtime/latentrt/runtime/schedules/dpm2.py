"""The schedules of DPM-Solver-2, without and with ancestral noise."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.ancestral import ancestral_levels
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.k_diffusion import discrete_levels
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.spacing import levels_asked
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["dpm2_ancestral_schedule", "dpm2_schedule"]


def dpm2_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' KDPM2DiscreteScheduler.

    Every step but one to no noise has a second evaluation, at the geometric mean of its levels.
    Raises InputError for what the config's keys cannot be, and for wishes that the class has no
    place for.

    Source: arXiv:2206.00927, Alg. 1; diffusers' `KDPM2DiscreteScheduler.set_timesteps`.
    """
    wanted.refuse(config.class_name, "eta", "timesteps")
    return _schedule(config, wanted, "dpm2", eta=0.0)


def dpm2_ancestral_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' KDPM2AncestralDiscreteScheduler.

    The second evaluation of a step lies between its level and the lower one to which fresh noise is
    then added. Raises InputError for what the config's keys cannot be, and for wishes that the
    class has no place for.

    Source: diffusers' `KDPM2AncestralDiscreteScheduler.set_timesteps`.
    """
    wanted.refuse(config.class_name, "timesteps")
    eta = 1.0 if wanted.eta is None else wanted.eta
    schedule = _schedule(config, wanted, "dpm2_ancestral", eta)
    return replace(schedule, options={"eta": eta})


def _schedule(config: SchedulerConfig, wanted: Wanted, sampler: str, eta: float) -> Schedule:
    prediction_type: PredictionType = config.choice("prediction_type", PREDICTION_TYPES)
    levels = discrete_levels(config, wanted)
    if wanted.sigmas is None and levels_asked(config, wanted) == "karras":
        # As diffusers: rounded, unlike those of the second evaluations.
        levels = replace(levels, timesteps=tuple(np.round(levels.timesteps).tolist()))
    between = [
        math.sqrt(sigma * ancestral_levels(sigma, sigma_next, eta)[0])
        for sigma, sigma_next in itertools.pairwise(levels.sigmas)
    ]
    return Schedule(
        sampler=sampler,
        evaluations=levels.evaluations_in_pairs(levels.timesteps_of(between), between),
        init_scale=levels.init_scale,
        final_scale=1.0,
        prediction_type=prediction_type,
    )
