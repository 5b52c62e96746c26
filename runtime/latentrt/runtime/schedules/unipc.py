"""The schedule of UniPC."""

from __future__ import annotations

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.orders import multistep_orders
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.solver_levels import solver_levels, solver_schedule
from latentrt.runtime.schedules.spacing import final_level
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["unipc_schedule"]


def unipc_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' UniPCMultistepScheduler.

    Source: arXiv:2302.04867, section 3.
    """
    wanted.refuse(config.class_name, "eta", "timesteps")
    for key, what in (("solver_p", "another predictor"), ("shift_terminal", "flow matching")):
        if config.values[key] is not None:
            expected = f"null: {what} is not built"
            raise InputError(f"scheduler config '{key}'", expected, repr(config.values[key]))
    # Configs of other classes carry names of their own, which this class takes for its default.
    kind = config.choice("solver_type", ("bh1", "bh2", "midpoint", "heun", "logrho"))
    predict_x0 = config.flag("predict_x0")
    levels = solver_levels(config, wanted)
    last = final_level(config, wanted, levels.reached)
    orders = multistep_orders(
        config.integer("solver_order", 1, 3),
        len(levels.sigmas),
        lower_last=config.flag("lower_order_final"),
        first_last=last == 0.0,
    )
    return solver_schedule(
        config,
        levels,
        last,
        sampler="unipc",
        # As diffusers: only an estimate of x0 is thresholded.
        clipping=clipping(config, clip_sample=False) if predict_x0 else None,
        options={
            "orders": orders,
            "predict_x0": predict_x0,
            "solver_type": "bh1" if kind == "bh1" else "bh2",
            "disable_corrector": config.integers("disable_corrector"),
        },
    )
