"""The schedule of Heun's method."""

from __future__ import annotations

from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.k_diffusion import discrete_levels
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["heun_schedule"]


def heun_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' HeunDiscreteScheduler.

    Every step but one to no noise has a second evaluation, at the level that it ends on. Raises
    InputError for what the config's keys cannot be, and for wishes that the class has no place for.

    Source: arXiv:2206.00364, Alg. 1; diffusers' `HeunDiscreteScheduler.set_timesteps`.
    """
    wanted.refuse(config.class_name, "eta")
    prediction_type: PredictionType = config.choice("prediction_type", PREDICTION_TYPES)
    levels = discrete_levels(config, wanted)
    ends = levels.sigmas[1:]
    told = (*levels.timesteps[1:], *levels.timesteps_of(ends[-1:]))
    return Schedule(
        sampler="heun",
        evaluations=levels.evaluations_in_pairs(told, ends),
        init_scale=levels.init_scale,
        final_scale=1.0,
        prediction_type=prediction_type,
        clipping=clipping(config, clip_sample=True),
    )
