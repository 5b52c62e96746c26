"""The training timesteps, or noise levels, that a run of a number of steps visits."""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.beta_quantile import beta_quantile
from latentrt.runtime.schedules.betas import train_timesteps
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.wanted import Levels, Wanted

__all__ = [
    "SIGMAS",
    "final_level",
    "levels_asked",
    "own_sigmas",
    "respaced_sigmas",
    "spaced_levels",
    "spaced_timesteps",
    "timesteps_of",
]

_F64 = NDArray[np.float64]
_F32 = NDArray[np.float32]

_SPACINGS: Final = ("linspace", "leading", "trailing")
SIGMAS: Final = (1e-6, 1e6)
"""The noise levels that a config may ask for: far beyond what a model knows, and no overflow."""
_NO_LEVEL: Final = 1e-10
"""Stands for a level of 0, which has no logarithm."""

_ALIGNED: Final = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_ALIGNED_XL: Final = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
"""The optimised levels of SD 1.5 and of SDXL in ten steps, arXiv:2404.14507, appendix."""


def spaced_timesteps(
    config: SchedulerConfig, wanted: Wanted, *, last: int | None = None, endpoint: bool = True
) -> _F64:
    """Timesteps from the noisiest down, float64 [steps], fractional with linspace.

    They lie in the first `last` of the training timesteps (all, when None). Without `endpoint` the
    one nearest the data is left out and the others are spaced as if it were there. Trailing ignores
    that, and gives fewer where `last` leaves room for fewer. Timesteps that are wanted outright are
    taken as they are. Raises InputError for a spacing that does not exist and for steps that cannot
    be told apart.

    Source: arXiv:2305.08891, Table 2.
    """
    train = train_timesteps(config)
    if wanted.timesteps is not None:
        return _own_timesteps(wanted.timesteps, train)
    spacing = config.choice("timestep_spacing", _SPACINGS)
    steps = wanted.steps
    last = train if last is None else last
    count = steps if endpoint else steps + 1
    if spacing == "trailing":
        # The quotient's rounding takes some counts (61 of 1000) one too far, to timestep -1.
        grid = np.round(np.arange(last, 0, -train / steps)) - 1.0
        return grid[grid >= 0.0]
    if spacing == "leading":
        if count > last:
            raise InputError("steps", f"at most {last - (count - steps)} with leading", steps)
        offset = config.integer("steps_offset", 0, train)
        grid = np.arange(count, dtype=np.float64) * (last // count) + offset
    else:
        grid = np.linspace(0.0, last - 1, count)
    return grid[::-1] if endpoint else grid[:0:-1]


def _own_timesteps(timesteps: tuple[float, ...], train: int) -> _F64:
    grid = np.array(timesteps, np.float64)
    if not len(grid) or not (np.diff(grid) < 0.0).all() or not 0.0 <= grid[-1] <= grid[0] < train:
        raise InputError("timesteps", f"falling numbers from {train - 1} to 0", timesteps)
    return grid


def respaced_sigmas(
    config: SchedulerConfig, wanted: Wanted, low: float, high: float
) -> _F64 | None:
    """Noise levels that are spaced for their own sake, float64 [steps], falling; None if not.

    Those that are wanted outright; else from `high` to `low`, or the config's `sigma_max` and
    `sigma_min`, as the run or else the config asks. Raises InputError where a config asks for
    several kinds, and for levels that do not fall.
    """
    if wanted.sigmas is not None:
        return np.array(own_sigmas(wanted.sigmas)[:-1], np.float64)
    levels = levels_asked(config, wanted)
    if levels is None:
        return None
    if "sigma_min" in config.values:
        low = config.optional("sigma_min", *SIGMAS) or low
        high = config.optional("sigma_max", *SIGMAS) or high
    if not 0.0 < low <= high < math.inf:
        if "sigma_min" not in config.values:
            raise InputError("schedule", "finite noise levels above 0", f"{high:g} to {low:g}")
        key = "sigma_max" if config.values["sigma_max"] is not None else "sigma_min"
        expected = f"levels that fall, not from {high:g} to {low:g}"
        raise InputError(f"scheduler config '{key}'", expected, config.values[key])
    return spaced_levels(levels, wanted, low, high)


def spaced_levels(levels: Levels, wanted: Wanted, low: float, high: float) -> _F64:
    """As many levels of a kind as steps are wanted, float64 [steps], from `high` down to `low`.

    Source: arXiv:2206.00364, eq. 5 (karras); arXiv:2407.12173 (beta); arXiv:2404.14507 (align your
    steps); k-diffusion's `get_sigmas_polyexponential`.
    """
    ramp = np.linspace(0.0, 1.0, wanted.steps)
    if levels == "karras":
        rho = 7.0 if wanted.rho is None else wanted.rho
        start, end = high ** (1.0 / rho), low ** (1.0 / rho)
        return (start + ramp * (end - start)) ** rho
    if levels == "exponential":
        return np.exp(np.linspace(math.log(high), math.log(low), wanted.steps))
    if levels == "polyexponential":
        rho = 1.0 if wanted.rho is None else wanted.rho
        return np.exp(math.log(low) + (1.0 - ramp) ** rho * (math.log(high) - math.log(low)))
    if levels == "beta":
        share = [beta_quantile(p, 0.6, 0.6) for p in (1.0 - ramp).tolist()]
        return low + np.array(share) * (high - low)
    table = np.log(_ALIGNED_XL if wanted.xl else _ALIGNED)
    places = np.linspace(0.0, len(table) - 1.0, wanted.steps + 1)[:-1]
    return np.exp(np.interp(places, np.arange(len(table)), table))


def final_level(config: SchedulerConfig, wanted: Wanted, lowest: float) -> float:
    """The level that a run ends on: none, or the `lowest` of training, or the last wanted.

    Classes that have no key for it end on none.
    """
    if wanted.sigmas is not None:
        return own_sigmas(wanted.sigmas)[-1]
    if "final_sigmas_type" not in config.values:
        return 0.0
    final = config.choice("final_sigmas_type", ("zero", "sigma_min"))
    return 0.0 if final == "zero" else lowest


def levels_asked(config: SchedulerConfig, wanted: Wanted) -> Levels | None:
    """The kind of levels that the run or else the config asks for."""
    if wanted.levels is not None:
        return wanted.levels
    kinds: tuple[Levels, ...] = ("karras", "exponential", "beta")
    asked: list[Levels] = [kind for kind in kinds if config.flag(f"use_{kind}_sigmas")]
    if len(asked) > 1:
        key = f"scheduler config 'use_{asked[1]}_sigmas'"
        raise InputError(key, f"false where use_{asked[0]}_sigmas is true", True)
    if asked and wanted.timesteps is not None:
        raise InputError("timesteps", f"none where use_{asked[0]}_sigmas is true", "some")
    return asked[0] if asked else None


def own_sigmas(sigmas: tuple[float, ...]) -> tuple[float, ...]:
    """Levels that are given outright, as they are; InputError for those that are no schedule."""
    low, high = SIGMAS
    falling = all(before > after for before, after in itertools.pairwise(sigmas))
    inside = all(low <= sigma <= high for sigma in sigmas[:-1])
    if len(sigmas) < 2 or not falling or not inside or 0.0 != sigmas[-1] < low:
        expected = f"at least two falling numbers from {high:g} to {low:g} or, last, 0"
        raise InputError("sigmas", expected, sigmas)
    return sigmas


def timesteps_of(sigmas: _F64, table: _F32) -> _F64:
    """The fractional timesteps at which a table of noise levels has these, by their logarithms.

    `table` is float32 [num_train_timesteps]; levels outside it take its ends. Where it does not
    rise, it is the last of the timesteps between which a level lies.

    Source: diffusers' `EulerDiscreteScheduler._sigma_to_t`.
    """
    if len(table) == 1:
        return np.zeros_like(sigmas)
    # Single and double precision meet here as in diffusers: a rounded timestep may hang on it.
    logs = np.log(np.clip(table, np.float32(_NO_LEVEL), np.finfo(np.float32).max))
    wanted = np.log(np.maximum(sigmas, _NO_LEVEL))
    least_from = np.minimum.accumulate(logs[::-1])[::-1]
    below = np.clip(np.searchsorted(least_from, wanted, side="right") - 1, 0, len(logs) - 2)
    low, high = logs[below], logs[below + 1]
    # Far from the data two logarithms may round to the same: the later timestep then.
    ratio = np.divide(low - wanted, low - high, out=np.ones_like(wanted), where=low != high)
    weight = np.clip(ratio, 0.0, 1.0)
    return (1.0 - weight) * below + weight * (below + 1)
