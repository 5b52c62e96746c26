"""The schedule of Euler's method with ancestral noise."""

from __future__ import annotations

from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.k_diffusion import discrete_levels
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["euler_ancestral_schedule"]


def euler_ancestral_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' EulerAncestralDiscreteScheduler.

    Raises InputError for what the config's keys cannot be, and for wishes that the class has no
    place for.

    Source: diffusers' `EulerAncestralDiscreteScheduler.set_timesteps`.
    """
    wanted.refuse(config.class_name, "timesteps")
    prediction_type: PredictionType = config.choice("prediction_type", PREDICTION_TYPES)
    levels = discrete_levels(config, wanted)
    return Schedule(
        sampler="euler_ancestral",
        evaluations=levels.evaluations(),
        init_scale=levels.init_scale,
        final_scale=1.0,
        prediction_type=prediction_type,
        options={"eta": 1.0 if wanted.eta is None else wanted.eta},
    )
