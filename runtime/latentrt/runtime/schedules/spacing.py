"""Which of the training timesteps, or which noise levels, a run of so many steps visits."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.betas import train_timesteps
from latentrt.runtime.schedules.config import SchedulerConfig

__all__ = ["respaced_sigmas", "spaced_timesteps", "timesteps_of"]

_F64 = NDArray[np.float64]
_F32 = NDArray[np.float32]

_SPACINGS: Final = ("linspace", "leading", "trailing")
_RHO: Final = 7.0
_SIGMAS: Final = (1e-6, 1e6)
"""The noise levels that a config may ask for: far beyond what a model knows, and no overflow."""


def spaced_timesteps(
    config: SchedulerConfig, steps: int, *, last: int | None = None, endpoint: bool = True
) -> _F64:
    """Timesteps from the noisiest down, float64 [steps], fractional with linspace.

    They lie in the first `last` of the training timesteps (all, when None). Without `endpoint` the
    one nearest the data is left out and the others are spaced as if it were there. Trailing ignores
    that, and gives fewer where `last` leaves room for fewer. Raises InputError for a spacing that
    does not exist and for steps that cannot be told apart.

    Source: arXiv:2305.08891, Table 2.
    """
    spacing = config.choice("timestep_spacing", _SPACINGS)
    train = train_timesteps(config)
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


def respaced_sigmas(config: SchedulerConfig, low: float, high: float, steps: int) -> _F64 | None:
    """Noise levels that the config asks to be spaced for their own sake, float64 [steps], falling.

    From `high` to `low`, or the config's `sigma_max` and `sigma_min`; None if it asks for none.
    Raises InputError where it asks for several, or for one that is not built.

    Source: arXiv:2206.00364, eq. 5 (karras).
    """
    config.refuse("use_beta_sigmas")
    karras = config.flag("use_karras_sigmas")
    exponential = config.flag("use_exponential_sigmas")
    if karras and exponential:
        key = "scheduler config 'use_exponential_sigmas'"
        raise InputError(key, "false where use_karras_sigmas is true", True)
    low = config.optional("sigma_min", *_SIGMAS) or low
    high = config.optional("sigma_max", *_SIGMAS) or high
    if karras:
        ramp = np.linspace(0.0, 1.0, steps)
        start, end = high ** (1.0 / _RHO), low ** (1.0 / _RHO)
        return (start + ramp * (end - start)) ** _RHO
    if exponential:
        return np.exp(np.linspace(math.log(high), math.log(low), steps))
    return None


def timesteps_of(sigmas: _F64, table: _F32) -> _F64:
    """The fractional timesteps at which a table of noise levels has these, by their logarithms.

    `table` is float32 [num_train_timesteps], rising; levels outside it take its ends.
    """
    if len(table) == 1:
        return np.zeros_like(sigmas)
    # Single and double precision meet here as in diffusers: a rounded timestep may hang on it.
    logs = np.log(table)
    wanted = np.log(np.maximum(sigmas, 1e-10))
    below = np.clip(np.searchsorted(logs, wanted, side="right") - 1, 0, len(logs) - 2)
    low, high = logs[below], logs[below + 1]
    # Far from the data two logarithms may round to the same: the later timestep then.
    ratio = np.divide(low - wanted, low - high, out=np.ones_like(wanted), where=low != high)
    weight = np.clip(ratio, 0.0, 1.0)
    return (1.0 - weight) * below + weight * (below + 1)
