"""The schedule of DDIM."""

from __future__ import annotations

from latentrt.runtime.schedules.betas import train_timesteps
from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Evaluation, Schedule
from latentrt.runtime.schedules.trained import (
    last_level,
    trained_levels,
    trained_schedule,
    whole_timesteps,
)
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["ddim_schedule"]


def ddim_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' DDIMScheduler.

    A step goes down by `num_train_timesteps // steps`, wherever the next listed timestep lies.
    Raises InputError for timesteps the model does not have, and for what the class does not have.

    Source: arXiv:2010.02502, eq. 12.
    """
    wanted.refuse(config.class_name, "sigmas", "timesteps")
    levels = trained_levels(config)
    last = last_level(config, levels)
    stride = train_timesteps(config) // wanted.steps
    evaluations = tuple(
        Evaluation(float(t), levels[t], levels[t - stride] if t >= stride else last)
        for t in whole_timesteps(config, wanted)
    )
    return trained_schedule(
        config,
        "ddim",
        evaluations,
        clipping=clipping(config, clip_sample=True),
        options={"eta": 0.0 if wanted.eta is None else wanted.eta},
    )
