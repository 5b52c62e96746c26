"""The schedule of DPM-Solver++ (SDE)."""

from __future__ import annotations

import itertools
import math

from latentrt.runtime.prediction import PREDICTION_TYPES
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.k_diffusion import discrete_levels
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.spacing import levels_asked
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["dpmpp_sde_schedule"]


def dpmpp_sde_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' DPMSolverSDEScheduler: twice in each but the last.

    The second level of a step is half way down in the logarithm. `noise_sampler_seed` changes
    nothing: noise is the request's own.

    Source: arXiv:2211.01095, Alg. 1; k-diffusion's `sample_dpmpp_sde`.
    """
    wanted.refuse(config.class_name, "timesteps")
    if levels_asked(config, wanted) == "karras":
        # As diffusers: karras levels, unlike the others, ignore these keys.
        config = config.with_values(sigma_min=None, sigma_max=None)
    levels = discrete_levels(config, wanted)
    halves = [math.sqrt(high * low) for high, low in itertools.pairwise(levels.sigmas)]
    return Schedule(
        sampler="dpmpp_sde",
        evaluations=levels.evaluations_in_pairs(levels.timesteps_of(halves), halves),
        init_scale=levels.init_scale,
        final_scale=1.0,
        prediction_type=config.choice("prediction_type", PREDICTION_TYPES),
        options={"eta": 1.0 if wanted.eta is None else wanted.eta},
    )
