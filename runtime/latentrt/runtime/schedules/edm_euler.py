"""The schedule of Euler's method for models trained on continuous noise levels."""

from __future__ import annotations

from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.edm import edm_levels, edm_schedule
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.spacing import final_level
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["edm_euler_schedule"]


def edm_euler_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' EDMEulerScheduler.

    Raises InputError for wishes that it has no place for.

    Source: arXiv:2206.00364, Alg. 1.
    """
    wanted.refuse(config.class_name, "eta", "timesteps")
    levels = edm_levels(config, wanted)
    # As diffusers: sigma_min is the last level visited, and the step to it goes nowhere.
    last = final_level(config, wanted, levels[-1])
    return edm_schedule(config, wanted, (*levels, last), sampler="euler")
