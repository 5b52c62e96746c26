"""DEIS, the diffusion exponential integrator sampler."""

from __future__ import annotations

from collections.abc import Sequence

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.denoise import Array, Sampler
from latentrt.runtime.samplers.dpm_solver import dpm_solver_multistep
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["deis"]


def deis(latent: Array, schedule: Schedule, *, noise: Noise, orders: Sequence[int]) -> Sampler:
    """A step with the exact integral of a polynomial, in log sigma, of the predicted noise.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    `orders`, from 1 to 3, says through how many predictions the polynomial of each step goes. Draws
    no noise. In this form it is DPM-Solver, with none of the integrals simplified.

    Source: arXiv:2204.13902, section 3; diffusers' `DEISMultistepScheduler` for log sigma.
    """
    return dpm_solver_multistep(
        latent, schedule, noise=noise, orders=orders, predict_x0=False, solver_type="logrho"
    )
