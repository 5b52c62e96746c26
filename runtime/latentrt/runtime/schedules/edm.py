"""The schedules of models that were trained on continuous noise levels (EDM)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Clipping, Evaluation, Option, Schedule
from latentrt.runtime.schedules.spacing import SIGMAS, own_sigmas, spaced_levels
from latentrt.runtime.schedules.wanted import Levels, Wanted

__all__ = ["edm_levels", "edm_schedule"]


def edm_levels(config: SchedulerConfig, wanted: Wanted) -> tuple[float, ...]:
    """The noise levels that a run visits, falling, at the scale of the model's own data.

    They are spaced as the run or else the config's `sigma_schedule` asks, from `sigma_max` to
    `sigma_min`, and rounded to single precision. Raises InputError for levels that do not fall.

    Source: arXiv:2206.00364, eq. 5 (karras); diffusers' `EDMEulerScheduler.set_timesteps`.
    """
    if wanted.sigmas is not None:
        levels = np.array(own_sigmas(wanted.sigmas)[:-1])
    else:
        levels = _spaced(config, wanted)
    return tuple(levels.astype(np.float32).tolist())


def _spaced(config: SchedulerConfig, wanted: Wanted) -> NDArray[np.float64]:
    """The levels from sigma_max to sigma_min, float64 [steps]."""
    own: Levels = config.choice("sigma_schedule", ("karras", "exponential"))
    kind = wanted.levels or own
    low, high = config.number("sigma_min", *SIGMAS), config.number("sigma_max", *SIGMAS)
    if low > high:
        raise InputError("scheduler config 'sigma_min'", f"at most sigma_max, {high:g}", low)
    if kind == "exponential" and wanted.steps == 1:
        # As diffusers: a single exponential level is the lowest.
        return np.array([low])
    if kind == "karras" and wanted.rho is None:
        wanted = replace(wanted, rho=config.number("rho", 0.1, 100.0))
    return spaced_levels(kind, wanted, low, high)


def edm_schedule(
    config: SchedulerConfig,
    wanted: Wanted,
    levels: tuple[float, ...],
    *,
    sampler: str,
    clipping: Clipping | None = None,
    options: Mapping[str, Option] | None = None,
) -> Schedule:
    """The schedule of one evaluation per level but the last, which is where the run ends.

    `levels` are at the scale of the model's own data. The schedule's are divided by `sigma_data`,
    so preconditioning is that of data at scale 1. `final_scale` undoes the division.

    Source: arXiv:2206.00364, Table 1 (c_in, c_noise).
    """
    scale = config.number("sigma_data", *SIGMAS)
    velocity = config.choice("prediction_type", ("epsilon", "v_prediction")) == "v_prediction"
    sigmas = [level / scale for level in levels]
    told = [0.25 * math.log(level) for level in levels[:-1]]
    first = config.number("sigma_max", *SIGMAS) if wanted.sigmas is None else levels[0]
    return Schedule(
        sampler=sampler,
        evaluations=tuple(map(Evaluation, told, sigmas[:-1], sigmas[1:])),
        # As diffusers: the variance of the data is taken for 1.
        init_scale=math.sqrt(first**2 + 1.0) / scale,
        final_scale=scale,
        prediction_type="v_prediction" if velocity else "edm",
        clipping=clipping,
        options=options or {},
        data_scale=scale,
    )
