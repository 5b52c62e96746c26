"""The schedule of DDPM."""

from __future__ import annotations

import itertools
from typing import Final

from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Evaluation, Schedule
from latentrt.runtime.schedules.trained import (
    trained_levels,
    trained_schedule,
    whole_timesteps,
)
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["ddpm_schedule"]

_SMALL: Final = ("fixed_small", "fixed_small_log")
_LARGE: Final = ("fixed_large", "fixed_large_log")


def ddpm_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' DDPMScheduler: the last one ends without noise.

    Raises InputError for timesteps the model does not have, and for what the class does not have.

    Source: arXiv:2006.11239, Alg. 2.
    """
    wanted.refuse(config.class_name, "eta", "sigmas")
    levels = trained_levels(config)
    timesteps = whole_timesteps(config, wanted)
    sigmas = [*(levels[t] for t in timesteps), 0.0]
    pairs = itertools.pairwise(sigmas)
    return trained_schedule(
        config,
        "ddpm",
        tuple(Evaluation(float(t), *pair) for t, pair in zip(timesteps, pairs, strict=True)),
        clipping=clipping(config, clip_sample=True),
        options={"large": _is_large(config)},
    )


def _is_large(config: SchedulerConfig) -> bool:
    """Whether the fresh noise has the forward step's variance rather than the posterior's.

    A logarithm is only how some models were trained to tell the variance. (diffusers takes the
    square root of that of `fixed_large_log`, which is not a number.)
    """
    # Configs of other classes have null, which diffusers takes for the small variance.
    if config.values["variance_type"] is None:
        return False
    return config.choice("variance_type", (*_SMALL, *_LARGE)) in _LARGE
