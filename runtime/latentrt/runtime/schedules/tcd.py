"""The schedule of trajectory consistency models."""

from __future__ import annotations

import itertools
import math

import numpy as np

from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.distilled import distilled_timesteps
from latentrt.runtime.schedules.schedule import Evaluation, Schedule
from latentrt.runtime.schedules.trained import trained_levels, trained_schedule
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["tcd_schedule"]


def tcd_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' TCDScheduler; the last ends at timestep 0.

    `wanted.eta` is the paper's gamma, 0.3 for None. Raises InputError for timesteps the model does
    not have, and for what the class does not have.

    Source: arXiv:2402.19159, Alg. 4 (strategic stochastic sampling).
    """
    wanted.refuse(config.class_name, "sigmas")
    levels = trained_levels(config)
    timesteps = distilled_timesteps(config, wanted)
    eta = 0.3 if wanted.eta is None else wanted.eta
    pairs = list(itertools.pairwise([*timesteps, 0]))
    return trained_schedule(
        config,
        "tcd",
        tuple(Evaluation(float(t), levels[t], levels[s]) for t, s in pairs),
        clipping=None,
        options={"eta": eta, "through": tuple(levels[_below(s, eta)] for _, s in pairs)},
    )


def _below(timestep: int, eta: float) -> int:
    """The timestep that a step to `timestep` goes through, to come up again by fresh noise."""
    # In single precision, as in diffusers: 0.7 * 90 is then 63, and not just below.
    return math.floor(np.float32(1.0 - eta) * np.float32(timestep))
