"""The noise levels of the k-diffusion samplers, for models trained on timesteps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.betas import cumulative_alphas, sigma_table
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Evaluation
from latentrt.runtime.schedules.spacing import (
    final_level,
    respaced_sigmas,
    spaced_timesteps,
    timesteps_of,
)
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["DiscreteLevels", "discrete_levels"]

_ZERO_SIGNAL: Final = 2.0**-24
"""What diffusers puts for a cumulative alpha of 0 in these classes: a level of 4096."""


@dataclass(frozen=True, slots=True)
class DiscreteLevels:
    """The levels that a run steps between, the last included, and the model's timesteps.

    `table` has the level of every training timestep, float32, rising.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    init_scale: float
    table: NDArray[np.float32]

    def evaluations(self) -> tuple[Evaluation, ...]:
        """One evaluation a step."""
        return tuple(map(Evaluation, self.timesteps, self.sigmas[:-1], self.sigmas[1:]))

    def evaluations_in_pairs(
        self, timesteps: Sequence[float], sigmas: Sequence[float]
    ) -> tuple[Evaluation, ...]:
        """Two evaluations a step, the second at a level and a timestep for each step.

        A step whose second level is 0 has one: that level has no timestep.
        """
        found: list[Evaluation] = []
        for first, timestep, sigma in zip(self.evaluations(), timesteps, sigmas, strict=True):
            found.append(first)
            if sigma > 0.0:
                found.append(Evaluation(timestep, sigma, first.sigma_next, stage=1))
        return tuple(found)

    def timesteps_of(self, sigmas: Sequence[float]) -> tuple[float, ...]:
        """The fractional timesteps at which the model was trained on levels."""
        return tuple(timesteps_of(np.array(sigmas), self.table).tolist())


def discrete_levels(
    config: SchedulerConfig, wanted: Wanted, *, log_linear: bool = False
) -> DiscreteLevels:
    """The levels of a run of this many steps.

    Timesteps stay fractional; levels that are spaced for their own sake span those that the
    timestep spacing would have visited. With `log_linear` there is one level more, and all are
    spaced evenly in their logarithm over the training levels, whatever the timesteps. Raises
    InputError for what the config's keys cannot be.

    Source: diffusers' `EulerDiscreteScheduler.set_timesteps`, of which the others have copies.
    """
    table = sigma_table(cumulative_alphas(config, floor=_ZERO_SIGNAL))
    timesteps = spaced_timesteps(config, wanted).astype(np.float32)
    if log_linear:
        ends = math.log(table[-1]), math.log(table[0])
        levels = np.exp(np.linspace(*ends, wanted.steps + 1))
    else:
        levels = np.interp(timesteps, np.arange(len(table)), table)
    respaced = respaced_sigmas(config, wanted, float(levels[-1]), float(levels[0]))
    if respaced is not None:
        levels, timesteps = respaced, timesteps_of(respaced, table).astype(np.float32)
    last = final_level(config, wanted, float(table[0]))
    sigmas = (*levels.astype(np.float32).tolist(), last)
    if not 0.0 < min(sigmas[:-1]) <= max(sigmas) < math.inf:
        raise InputError("schedule", "finite noise levels above 0", sigmas)
    # As diffusers: only leading spacing allows for the data's own variance at the first level.
    leading = config.values["timestep_spacing"] == "leading"
    return DiscreteLevels(
        timesteps=tuple(timesteps.tolist()),
        sigmas=sigmas,
        init_scale=math.sqrt(sigmas[0] ** 2 + 1.0) if leading else sigmas[0],
        table=table,
    )
