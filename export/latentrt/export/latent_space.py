"""Fields of a VAE's config on its latents: their size, and the numbers that scale them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from latentrt.bundle.errors import CheckpointError
from latentrt.bundle.manifest import STABLE_DIFFUSION_XL
from latentrt.export.components import vae_factor
from latentrt.export.family import Family
from latentrt.export.modules import Config


@dataclass(frozen=True, slots=True)
class LatentSpace:
    """The latents of a VAE, with the field names of `latentrt.bundle.manifest.Manifest`.

    `notes` name the fields of the config that are ignored, a sentence each.
    """

    channels: int
    factor: int
    scaling: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(where: str, family: Family, config: Config) -> LatentSpace:
        """Read a config; raises `CheckpointError` for a scale that is not a finite number."""
        channels = int(config["latent_channels"])
        stated = [config.get("latents_mean"), config.get("latents_std")]
        mean, std = None, None
        # Both or none, and in no other pipeline than SDXL's, as in diffusers.
        if family.name == STABLE_DIFFUSION_XL and None not in stated:
            mean, std = (
                _by_channel(where, field, value, channels)
                for field, value in zip(("latents_mean", "latents_std"), stated, strict=True)
            )
        # No pipeline of these families shifts, as those of Flux and Stable Diffusion 3 do.
        shift = config.get("shift_factor")
        note = f"vae: {family.pipeline} does not read shift_factor {shift!r}: ignored"
        return LatentSpace(
            channels=channels,
            factor=vae_factor(config),
            scaling=_number(where, "scaling_factor", config["scaling_factor"]),
            mean=mean,
            std=std,
            notes=(note,) if shift else (),
        )

    def unscale(self, latents: Tensor) -> Tensor:
        """Convert the model's latents [n, c, h, w] to the VAE's scale."""
        if self.mean is None or self.std is None:
            return latents / self.scaling
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return latents * std / self.scaling + mean


def _number(where: str, field: str, value: object) -> float:
    zero = field == "scaling_factor" and value == 0
    if not _finite(value) or zero:
        raise CheckpointError(where, f"{field} is {value!r}, expected a number")
    return float(value)


def _finite(value: object) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def _by_channel(where: str, field: str, value: object, channels: int) -> tuple[float, ...]:
    numbers = cast("list[Any]", value) if isinstance(value, list | tuple) else []
    if len(numbers) != channels or not all(map(_finite, numbers)):
        raise CheckpointError(where, f"{field} is {value!r}, expected {channels} numbers")
    return tuple(float(n) for n in numbers)
