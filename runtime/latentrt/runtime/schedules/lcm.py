"""The schedule of latent consistency models."""

from __future__ import annotations

import itertools

from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.distilled import distilled_timesteps
from latentrt.runtime.schedules.schedule import Evaluation, Schedule
from latentrt.runtime.schedules.trained import trained_levels, trained_schedule
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["lcm_schedule"]


def lcm_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' LCMScheduler: the last one ends without noise.

    Raises InputError for timesteps the model does not have, and for what the class does not have.

    Source: arXiv:2310.04378, Alg. 4.
    """
    wanted.refuse(config.class_name, "eta", "sigmas")
    levels = trained_levels(config)
    timesteps = distilled_timesteps(config, wanted)
    sigmas = [*(levels[t] for t in timesteps), 0.0]
    pairs = itertools.pairwise(sigmas)
    return trained_schedule(
        config,
        "lcm",
        tuple(Evaluation(float(t), *pair) for t, pair in zip(timesteps, pairs, strict=True)),
        clipping=clipping(config, clip_sample=True),
        options={"timestep_scaling": config.number("timestep_scaling", 0.0, 1e6)},
    )
