"""The schedule of DEIS."""

from __future__ import annotations

from typing import Final

from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.orders import multistep_orders
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.solver_levels import solver_levels, solver_schedule
from latentrt.runtime.schedules.spacing import final_level
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["deis_schedule"]

_FEW: Final = 15
"""Runs of fewer steps than this have their last ones lowered in order."""


def deis_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' DEISMultistepScheduler.

    It ends on the lowest level of training, or on that of the levels that were asked for: the last
    step then goes nowhere.

    Source: arXiv:2204.13902, section 3.
    """
    wanted.refuse(config.class_name, "eta", "timesteps")
    # Configs of other classes carry names of their own, which this class takes for its only ones.
    config.choice("algorithm_type", ("deis", "dpmsolver", "dpmsolver++"))
    config.choice("solver_type", ("logrho", "midpoint", "heun", "bh1", "bh2"))
    levels = solver_levels(config, wanted)
    # It has no key for this: a level of 0 is none of those that it can step to in diffusers.
    lowest = config.with_values(final_sigmas_type="sigma_min")
    last = final_level(lowest, wanted, levels.reached)
    steps = len(levels.sigmas)
    orders = multistep_orders(
        config.integer("solver_order", 1, 3),
        steps,
        lower_last=config.flag("lower_order_final") and steps < _FEW,
        first_last=False,
    )
    return solver_schedule(
        config,
        levels,
        last,
        sampler="deis",
        clipping=clipping(config, clip_sample=False),
        options={"orders": orders},
    )
