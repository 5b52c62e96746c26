"""The schedule of the linear multistep method."""

from __future__ import annotations

from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.k_diffusion import discrete_levels
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.spacing import levels_asked
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["lms_schedule"]


def lms_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' LMSDiscreteScheduler.

    Raises InputError for what the config's keys cannot be, and for wishes that the class has no
    place for.

    Source: diffusers' `LMSDiscreteScheduler.set_timesteps`.
    """
    wanted.refuse(config.class_name, "eta", "timesteps")
    prediction_type: PredictionType = config.choice("prediction_type", PREDICTION_TYPES)
    if levels_asked(config, wanted) == "karras":
        # As diffusers: karras levels, unlike the others, ignore these keys.
        config = config.with_values(sigma_min=None, sigma_max=None)
    levels = discrete_levels(config, wanted)
    return Schedule(
        sampler="lms",
        evaluations=levels.evaluations(),
        init_scale=levels.init_scale,
        final_scale=1.0,
        prediction_type=prediction_type,
    )
