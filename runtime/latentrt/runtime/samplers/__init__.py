"""Samplers: pure generators over one latent, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.ddim import ddim
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.samplers.dpmpp_2m import dpmpp_2m
from latentrt.runtime.samplers.euler import euler
from latentrt.runtime.schedules import Schedule, find_sampler

__all__ = [
    "SAMPLERS",
    "Array",
    "Denoise",
    "Sampler",
    "SamplerFunction",
    "ddim",
    "dpmpp_2m",
    "euler",
    "find_sampler",
    "sample",
]


class SamplerFunction(Protocol):
    """What every sampler is called with; some take more, by keyword."""

    def __call__(self, latent: Array, schedule: Schedule, *, noise: Noise) -> Sampler:
        """Start a run from a latent at the schedule's first level."""
        ...


SAMPLERS: Final[Mapping[str, SamplerFunction]] = {
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "euler": euler,
}
"""The samplers by their short names; `find_sampler` has the diffusers class names too."""


def sample(latent: Array, schedule: Schedule, *, noise: Noise, eta: float = 0.0) -> Sampler:
    """Start the sampler that a schedule was made for.

    `latent` is float32 [channels, h, w]: noise of unit variance times `schedule.init_scale`. `eta`,
    from 0 to 1, is DDIM's share of fresh noise, drawn from `noise`. Raises InputError for another
    `eta`, and for one above 0 with a sampler that has none.
    """
    if not 0.0 <= eta <= 1.0:
        raise InputError("eta", "a number from 0 to 1", eta)
    if schedule.sampler == "ddim":
        return ddim(latent, schedule, noise=noise, eta=eta)
    if eta > 0.0:
        raise InputError("eta", f"0 with {schedule.sampler}: only ddim has it", eta)
    return SAMPLERS[schedule.sampler](latent, schedule, noise=noise)
