"""From a diffusers scheduler config and a number of steps to what a sampler evaluates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.betas import train_timesteps
from latentrt.runtime.schedules.config import (
    SchedulerConfig,
    as_stable_diffusion,
    find_sampler,
    read_config,
    sampler_of,
    unused_keys,
)
from latentrt.runtime.schedules.ddim import ddim_schedule
from latentrt.runtime.schedules.dpmpp_2m import dpmpp_2m_schedule
from latentrt.runtime.schedules.euler import euler_schedule
from latentrt.runtime.schedules.schedule import Clipping, Evaluation, Multistep, Schedule

__all__ = [
    "SCHEDULES",
    "Clipping",
    "Evaluation",
    "Multistep",
    "Schedule",
    "as_stable_diffusion",
    "build_schedule",
    "find_sampler",
    "unused_keys",
]

_BUILDERS: Final[Mapping[str, Callable[[SchedulerConfig, int], Schedule]]] = {
    "ddim": ddim_schedule,
    "dpmpp_2m": dpmpp_2m_schedule,
    "euler": euler_schedule,
}

_RESPACED: Final = {"exponential": "use_exponential_sigmas", "karras": "use_karras_sigmas"}
_SPACED: Final = ("leading", "linspace", "trailing")

SCHEDULES: Final = (*sorted(_RESPACED), *_SPACED)
"""The names that `build_schedule` takes for a schedule other than the config's own."""


def build_schedule(
    config: Mapping[str, object],
    *,
    steps: int,
    sampler: str | None = None,
    schedule: str | None = None,
) -> Schedule:
    """The schedule of a run of `steps` steps under a diffusers scheduler config.

    `sampler` is a short name or a diffusers class name; None takes the class that the config names.
    The keys that the sampler's class has carry over from the config, whatever class it was written
    for. `schedule` overrides the config's spacing: "karras" or "exponential" noise levels, or
    "leading", "linspace" or "trailing" timesteps (and then neither of the former).

    Raises InputError, naming the key or argument, for everything that is not honoured here; `steps`
    is an integer from 1 to the config's `num_train_timesteps`.
    """
    name = sampler_of(config, sampler)
    read = read_config(config, name)
    if schedule is not None:
        read = _respaced(read, name, schedule)
    most = train_timesteps(read)
    # bool is an int, and True steps are a mistake.
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError("steps", f"an integer from 1 to {most}", repr(steps))
    return _BUILDERS[name](read, steps)


def _respaced(config: SchedulerConfig, sampler: str, schedule: str) -> SchedulerConfig:
    """The config with another spacing, if the sampler has it."""
    has = [key for key in (*_RESPACED.values(), "use_beta_sigmas") if key in config.values]
    known = [name for name in SCHEDULES if _RESPACED.get(name, "timestep_spacing") in config.values]
    if schedule not in known:
        raise InputError("schedule", f"one of {', '.join(known)} with {sampler}", repr(schedule))
    off: dict[str, object] = dict.fromkeys(has, False)
    if schedule in _RESPACED:
        return config.with_values(**{**off, _RESPACED[schedule]: True})
    return config.with_values(**{**off, "timestep_spacing": schedule})
