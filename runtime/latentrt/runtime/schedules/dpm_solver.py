"""The schedules of DPM-Solver and DPM-Solver++, and of their stochastic forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.edm import edm_levels, edm_schedule
from latentrt.runtime.schedules.orders import multistep_orders, singlestep_orders
from latentrt.runtime.schedules.schedule import Option, Schedule
from latentrt.runtime.schedules.solver_levels import solver_levels, solver_schedule
from latentrt.runtime.schedules.spacing import SIGMAS, final_level
from latentrt.runtime.schedules.wanted import Wanted

__all__ = [
    "dpm_solver_multistep_schedule",
    "dpm_solver_singlestep_schedule",
    "edm_dpm_solver_multistep_schedule",
]

_PLUS: Final = ("dpmsolver++", "sde-dpmsolver++")
_FEW: Final = 15
"""Runs of fewer steps than this have their last ones lowered in order."""


def dpm_solver_multistep_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' DPMSolverMultistepScheduler.

    Source: arXiv:2211.01095, Alg. 2; arXiv:2206.00927, section 3.
    """
    solver = _solver(config, wanted, (*_PLUS, "dpmsolver", "sde-dpmsolver"))
    cosine = config.values["beta_schedule"] == "squaredcos_cap_v2"
    levels = solver_levels(config, wanted, truncated=cosine)
    last = final_level(config, wanted, levels.lowest)
    return solver_schedule(
        config,
        levels,
        last,
        sampler=solver.name("m"),
        clipping=clipping(config, clip_sample=False),
        options=solver.options(_multistep(config, solver.order, len(levels.sigmas), last)),
    )


def dpm_solver_singlestep_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' DPMSolverSinglestepScheduler.

    Source: arXiv:2211.01095, Alg. 1; arXiv:2206.00927, Alg. 1 and 2.
    """
    solver = _solver(config, wanted, (*_PLUS, "dpmsolver"))
    levels = solver_levels(config.with_values(timestep_spacing="linspace"), wanted)
    last = final_level(config, wanted, levels.lowest)
    lower = config.flag("lower_order_final")
    orders = singlestep_orders(
        solver.order, len(levels.sigmas), lower_last=lower, first_last=last == 0.0
    )
    return solver_schedule(
        config,
        levels,
        last,
        sampler=solver.name("s"),
        clipping=clipping(config, clip_sample=False),
        options=solver.options(orders),
    )


def edm_dpm_solver_multistep_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' EDMDPMSolverMultistepScheduler.

    Source: arXiv:2211.01095, Alg. 2; arXiv:2206.00364, Table 1.
    """
    wanted.refuse(config.class_name, "timesteps")
    solver = _solver(config, wanted, _PLUS)
    visited = edm_levels(config, wanted)
    # A single level is far above sigma_min; and rounding may put the last one below it.
    lowest = min(config.number("sigma_min", *SIGMAS), visited[-1])
    last = final_level(config, wanted, lowest)
    return edm_schedule(
        config,
        wanted,
        (*visited, last),
        sampler=solver.name("m"),
        clipping=clipping(config, clip_sample=False, scale=config.number("sigma_data", *SIGMAS)),
        options=solver.options(_multistep(config, solver.order, len(visited), last)),
    )


@dataclass(frozen=True, slots=True)
class _Solver:
    """Which of the solvers a config asks for."""

    order: int
    predict_x0: bool
    sde: bool
    eta: float
    solver_type: str

    def name(self, kind: str) -> str:
        """The sampler's name: `kind` is m for a multistep solver, s for a singlestep one."""
        family = "dpmpp" if self.predict_x0 else "dpm_solver"
        return f"{family}_{self.order}{kind}{'_sde' if self.sde else ''}"

    def options(self, orders: tuple[int, ...]) -> dict[str, Option]:
        """What the sampler has to know."""
        return {
            "orders": orders,
            "predict_x0": self.predict_x0,
            "solver_type": self.solver_type,
            "eta": self.eta,
        }


def _solver(config: SchedulerConfig, wanted: Wanted, algorithms: tuple[str, ...]) -> _Solver:
    """The solver of a config, whose algorithm has to be one of some."""
    # Some classes' configs carry names of their own kinds, which this class takes for its default.
    algorithm = config.choice("algorithm_type", (*algorithms, "deis"))
    algorithm = "dpmsolver++" if algorithm == "deis" else algorithm
    kinds = ("midpoint", "heun", "logrho", "bh1", "bh2")
    kind = config.choice("solver_type", kinds)
    sde = algorithm.startswith("sde")
    if not sde:
        wanted.refuse(algorithm, "eta")
    eta = 1.0 if wanted.eta is None else wanted.eta
    return _Solver(
        order=config.integer("solver_order", 1, 3),
        predict_x0=algorithm.endswith("++"),
        sde=sde,
        eta=eta if sde else 0.0,
        solver_type="heun" if kind == "heun" else "midpoint",
    )


def _multistep(config: SchedulerConfig, order: int, steps: int, last: float) -> tuple[int, ...]:
    """The order of each step of a multistep solver that ends on level `last`."""
    return multistep_orders(
        order,
        steps,
        lower_last=config.flag("lower_order_final") and steps < _FEW,
        first_last=config.flag("euler_at_final") or last == 0.0,
    )
