"""The noise levels of DPM-Solver and its relatives, for models trained on timesteps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.prediction import PREDICTION_TYPES
from latentrt.runtime.schedules.betas import cumulative_alphas, sigma_table, train_timesteps
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Clipping, Evaluation, Option, Schedule
from latentrt.runtime.schedules.spacing import (
    levels_asked,
    respaced_sigmas,
    spaced_timesteps,
    timesteps_of,
)
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["SolverLevels", "solver_levels", "solver_schedule"]

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]

_ZERO_SIGNAL: Final = 2.0**-24
"""What diffusers puts for a cumulative alpha of 0 in these classes: a level of 4096."""


@dataclass(frozen=True, slots=True)
class SolverLevels:
    """The levels that a run visits, falling, and the model's timesteps, whole numbers.

    `lowest` is the lowest level of training. `reached` is that which the levels lead down to: where
    they are spaced for their own sake it is the last of them.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    lowest: float
    reached: float


def solver_levels(
    config: SchedulerConfig, wanted: Wanted, *, truncated: bool = False
) -> SolverLevels:
    """The levels of a run of this many steps.

    Levels that are spaced for their own sake span all of training. Their timesteps are rounded to
    whole ones, but `truncated` to them where that is asked, and where they are exponential or beta.
    Raises InputError for what the config's keys cannot be.

    Source: diffusers' `DPMSolverMultistepScheduler.set_timesteps`, of which the others have copies.
    """
    alphas = cumulative_alphas(config, floor=_ZERO_SIGNAL)
    table = sigma_table(alphas)
    low, high = float(table[0]), float(table[-1])
    timesteps = spaced_timesteps(config, wanted, last=_clipped(config, alphas), endpoint=False)
    timesteps = np.trunc(timesteps) if wanted.timesteps is not None else np.round(timesteps)
    levels = np.interp(timesteps, np.arange(len(table)), table)
    respaced = _evenly_in_log(config, wanted, table)
    if respaced is None:
        respaced = respaced_sigmas(config, wanted, low, high)
        truncated = truncated or levels_asked(config, wanted) in ("exponential", "beta")
    if respaced is not None:
        levels, timesteps = respaced, timesteps_of(respaced, table)
        timesteps = np.trunc(timesteps) if truncated else np.round(timesteps)
    sigmas: list[float] = levels.astype(np.float32).tolist()
    # Aligned steps alone are given without the level that they end on.
    through = respaced is not None and wanted.levels != "align_your_steps"
    reached = sigmas[-1] if through else low
    return SolverLevels(tuple(timesteps.tolist()), tuple(sigmas), low, reached)


def solver_schedule(
    config: SchedulerConfig,
    levels: SolverLevels,
    last: float,
    *,
    sampler: str,
    clipping: Clipping | None,
    options: Mapping[str, Option],
) -> Schedule:
    """The schedule of one evaluation per level, ending on level `last`, at unit variance."""
    sigmas = (*levels.sigmas, last)
    return Schedule(
        sampler=sampler,
        evaluations=tuple(map(Evaluation, levels.timesteps, sigmas[:-1], sigmas[1:])),
        init_scale=math.sqrt(sigmas[0] ** 2 + 1.0),
        final_scale=1.0 / math.sqrt(last**2 + 1.0),
        prediction_type=config.choice("prediction_type", PREDICTION_TYPES),
        clipping=clipping,
        options=options,
    )


def _clipped(config: SchedulerConfig, alphas: _F32) -> int:
    """The number of training timesteps whose log signal-to-noise ratio is high enough to visit."""
    train = train_timesteps(config)
    if "lambda_min_clipped" not in config.values:
        return train
    lowest = config.number("lambda_min_clipped", -math.inf, math.inf)
    with np.errstate(divide="ignore"):
        log_snr = np.log(np.sqrt(alphas)) - np.log(np.sqrt(np.float32(1.0) - alphas))
    last = train - int(np.count_nonzero(log_snr.astype(np.float64) < lowest))
    if last <= 0:
        raise InputError("scheduler config 'lambda_min_clipped'", "less than all clipped", lowest)
    return last


def _evenly_in_log(config: SchedulerConfig, wanted: Wanted, table: _F32) -> _F64 | None:
    """Levels spaced evenly in their logarithm, if that is what `use_lu_lambdas` comes to.

    The logarithms are single precision's, as in diffusers: a truncated timestep hangs on them.

    Source: arXiv:2206.00927, section 3.
    """
    if "use_lu_lambdas" not in config.values or not config.flag("use_lu_lambdas"):
        return None
    # As diffusers: of the config's kinds of levels, only karras goes before it.
    if wanted.sigmas is not None or wanted.levels is not None or config.flag("use_karras_sigmas"):
        return None
    if wanted.timesteps is not None:
        raise InputError("timesteps", "none where use_lu_lambdas is true", "some")
    if not 0.0 < table[0] <= table[-1] < math.inf:
        raise InputError(
            "schedule", "finite noise levels above 0", f"{table[-1]:g} to {table[0]:g}"
        )
    ends = np.log(table[[-1, 0]])
    return np.exp(np.linspace(float(ends[0]), float(ends[1]), wanted.steps))
