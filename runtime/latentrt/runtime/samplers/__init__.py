"""Samplers: pure generators over one latent, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.ddim import ddim
from latentrt.runtime.samplers.ddpm import ddpm
from latentrt.runtime.samplers.deis import deis
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.samplers.dpm2 import dpm2
from latentrt.runtime.samplers.dpm2_ancestral import dpm2_ancestral
from latentrt.runtime.samplers.dpm_solver import dpm_solver_multistep, dpm_solver_singlestep
from latentrt.runtime.samplers.dpmpp_sde import dpmpp_sde
from latentrt.runtime.samplers.euler import euler
from latentrt.runtime.samplers.euler_ancestral import euler_ancestral
from latentrt.runtime.samplers.heun import heun
from latentrt.runtime.samplers.lcm import lcm
from latentrt.runtime.samplers.lms import lms
from latentrt.runtime.samplers.pndm import pndm
from latentrt.runtime.samplers.tcd import tcd
from latentrt.runtime.samplers.unipc import unipc
from latentrt.runtime.schedules import Schedule

__all__ = [
    "SAMPLERS",
    "Array",
    "Denoise",
    "Sampler",
    "ddim",
    "ddpm",
    "deis",
    "dpm2",
    "dpm2_ancestral",
    "dpm_solver_multistep",
    "dpm_solver_singlestep",
    "dpmpp_sde",
    "euler",
    "euler_ancestral",
    "heun",
    "lcm",
    "lms",
    "pndm",
    "sample",
    "tcd",
    "unipc",
]

SAMPLERS: Final[Mapping[str, Callable[..., Sampler]]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "deis": deis,
    "dpm2": dpm2,
    "dpm2_ancestral": dpm2_ancestral,
    "dpm_solver_1m": dpm_solver_multistep,
    "dpm_solver_1m_sde": dpm_solver_multistep,
    "dpm_solver_1s": dpm_solver_singlestep,
    "dpm_solver_2m": dpm_solver_multistep,
    "dpm_solver_2m_sde": dpm_solver_multistep,
    "dpm_solver_2s": dpm_solver_singlestep,
    "dpm_solver_3m": dpm_solver_multistep,
    "dpm_solver_3m_sde": dpm_solver_multistep,
    "dpm_solver_3s": dpm_solver_singlestep,
    "dpmpp_1m": dpm_solver_multistep,
    "dpmpp_1m_sde": dpm_solver_multistep,
    "dpmpp_1s": dpm_solver_singlestep,
    "dpmpp_1s_sde": dpm_solver_singlestep,
    "dpmpp_2m": dpm_solver_multistep,
    "dpmpp_2m_sde": dpm_solver_multistep,
    "dpmpp_2s": dpm_solver_singlestep,
    "dpmpp_2s_sde": dpm_solver_singlestep,
    "dpmpp_3m": dpm_solver_multistep,
    "dpmpp_3m_sde": dpm_solver_multistep,
    "dpmpp_3s": dpm_solver_singlestep,
    "dpmpp_3s_sde": dpm_solver_singlestep,
    "dpmpp_sde": dpmpp_sde,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "lcm": lcm,
    "lms": lms,
    "plms": pndm,
    "pndm": pndm,
    "tcd": tcd,
    "unipc": unipc,
}
"""The functions by the names that schedules have for them.

Each takes a latent float32 [channels, h, w] at the schedule's first level, and a schedule. Keywords
are `noise` and those that the schedule's `options` name.
"""


def sample(latent: Array, schedule: Schedule, *, noise: Noise) -> Sampler:
    """Start the sampler that a schedule was made for.

    `latent` is float32 [channels, h, w]: noise of unit variance times `schedule.init_scale`.
    """
    # What the keywords have to be is between a class's schedule and its sampler.
    options: dict[str, Any] = {**schedule.options}
    return SAMPLERS[schedule.sampler](latent, schedule, noise=noise, **options)
