"""Fields of a VAE's config on its latents: their size, and the numbers that scale them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, TypeGuard, cast

from latentrt.bundle.errors import CheckpointError
from latentrt.bundle.manifest import STABLE_DIFFUSION, XL
from latentrt.weights.component_specs import vae_factor
from latentrt.weights.families import Family
from latentrt.weights.source import Config, Source

_SAMPLE_SIZE: Final = 64
"""The sample size of a U-Net whose config states none, as in diffusers' pipelines."""

_OLD: Final = (0, 9)
"""Before this version of diffusers, a U-Net's config may state a wrong size."""


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
        if family.name in XL and None not in stated:
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


def read_sample_size(
    source: Source, family: Family, config: Config
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """The default (height, width) of a latent, and a note where the config says another.

    Source: `StableDiffusionPipeline.__init__`, which corrects what old U-Nets state.
    """
    stated: object = config["sample_size"] or _SAMPLE_SIZE
    several = cast("list[Any]", stated) if isinstance(stated, list | tuple) else []
    sides = [stated, stated] if isinstance(stated, int) else several
    if len(sides) != 2 or not all(type(n) is int and n > 0 for n in sides):
        problem = f"sample_size is {stated!r}, expected one or two whole numbers"
        raise CheckpointError(f"{source.name}/unet/config.json", problem)
    small = isinstance(stated, int) and stated < _SAMPLE_SIZE
    if family.name == STABLE_DIFFUSION and small and _is_old(source.config("unet")):
        note = f"unet: sample_size {stated} of an old config is read as {_SAMPLE_SIZE}"
        return (_SAMPLE_SIZE, _SAMPLE_SIZE), (f"{note}, as in {family.pipeline}",)
    return (sides[0], sides[1]), ()


def _is_old(config: Config) -> bool:
    """Whether diffusers before 0.9 wrote a config; one that names no version is not old."""
    numbers = str(config.get("_diffusers_version")).split(".")[:2]
    return all(n.isdecimal() for n in numbers) and tuple(map(int, numbers)) < _OLD


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
