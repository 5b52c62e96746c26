"""The schedule of DPM-Solver++."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.prediction import PREDICTION_TYPES, PredictionType
from latentrt.runtime.schedules.betas import cumulative_alphas, sigma_table, train_timesteps
from latentrt.runtime.schedules.clipping import clipping
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Evaluation, Multistep, Schedule
from latentrt.runtime.schedules.spacing import respaced_sigmas, spaced_timesteps, timesteps_of

__all__ = ["dpmpp_2m_schedule"]


def dpmpp_2m_schedule(config: SchedulerConfig, steps: int) -> Schedule:
    """What diffusers' DPMSolverMultistepScheduler (dpmsolver++, order 1 or 2) evaluates.

    Timesteps are whole numbers, karras ones too; karras and exponential levels span the training
    schedule. Raises InputError for what the class has and is not built.

    Source: arXiv:2211.01095, Alg. 2; diffusers' `DPMSolverMultistepScheduler.set_timesteps`.
    """
    config.refuse("use_lu_lambdas")
    # Some classes' configs carry names of their own kinds, which this class takes for its default.
    config.choice("algorithm_type", ("dpmsolver++", "deis"))
    kinds = ("midpoint", "heun", "logrho", "bh1", "bh2")
    solver = "heun" if config.choice("solver_type", kinds) == "heun" else "midpoint"
    order = config.integer("solver_order", 1, 2)
    prediction_type: PredictionType = config.choice("prediction_type", PREDICTION_TYPES)
    alphas = cumulative_alphas(config, floor=2.0**-24)
    table = sigma_table(alphas)
    last_timestep = _last_timestep(config, alphas)
    timesteps = np.round(spaced_timesteps(config, steps, last=last_timestep, endpoint=False))
    levels = np.interp(timesteps, np.arange(train_timesteps(config)), table)
    respaced = respaced_sigmas(config, float(table[0]), float(table[-1]), steps)
    if respaced is not None:
        levels, timesteps = respaced, timesteps_of(respaced, table)
        karras = config.flag("use_karras_sigmas")
        if karras and config.values["beta_schedule"] != "squaredcos_cap_v2":
            timesteps = np.round(timesteps)
        timesteps = np.trunc(timesteps)
    final = config.choice("final_sigmas_type", ("zero", "sigma_min"))
    last = 0.0 if final == "zero" else float(table[0])
    sigmas = [*levels.astype(np.float32).tolist(), last]
    first_order_final = (
        config.flag("euler_at_final")
        or (config.flag("lower_order_final") and len(timesteps) < 15)
        or final == "zero"
    )
    return Schedule(
        sampler="dpmpp_2m",
        evaluations=tuple(map(Evaluation, timesteps.tolist(), sigmas[:-1], sigmas[1:])),
        init_scale=math.sqrt(sigmas[0] ** 2 + 1.0),
        final_scale=1.0 / math.sqrt(last**2 + 1.0),
        prediction_type=prediction_type,
        clipping=clipping(config, clip_sample=False),
        multistep=Multistep(order, solver, first_order_final),
    )


def _last_timestep(config: SchedulerConfig, alphas: NDArray[np.float32]) -> int:
    """The number of training timesteps whose log signal-to-noise ratio is high enough to visit."""
    lowest = config.number("lambda_min_clipped", -math.inf, math.inf)
    log_snr = np.log(np.sqrt(alphas)) - np.log(np.sqrt(np.float32(1.0) - alphas))
    last = int(np.count_nonzero(log_snr.astype(np.float64) >= lowest))
    if last == 0:
        raise InputError("scheduler config 'lambda_min_clipped'", "less than all clipped", lowest)
    return last
