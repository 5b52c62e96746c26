"""The configs of the ControlNets that people have, and what a file of one is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.configs import CONTROLNET_DEFAULTS
from latentrt.weights.source import Config


def controlnet_of(unet: Config) -> Config:
    """The config of a ControlNet that is a copy of a U-Net's first half.

    Source: diffusers' `ControlNetModel.from_unet`.
    """
    return {name: unet.get(name, default) for name, default in CONTROLNET_DEFAULTS.items()}


CONTROLNETS: Final[Mapping[str, Config]] = MappingProxyType(
    {
        name: controlnet_of(ARCHITECTURES[of]["unet"])
        for name, of in (
            ("sd15", "sd15"),
            ("sd2", "sd21"),
            ("sdxl", "sdxl"),
        )
    }
)
"""The configs of ControlNets, by the generation of checkpoints that they go with."""
