"""A VAE in a file of its own, in the original names or those of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import CheckpointError
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.single_file import find_vae
from latentrt.weights.source import Config, Source
from latentrt.weights.spelled_tensors import SpelledTensors, open_tensors, spelled_tensors

_VAE: Final = "vae"


@dataclass(frozen=True, slots=True)
class VaeFile:
    """A checkpoint that has a VAE alone.

    `own` is its config: all known models have a VAE of the same layers. Its scale is not in the
    file. It goes with the U-Net, so the checkpoint that takes this part gives it.
    """

    path: Path
    weights: SpelledTensors
    index: Mapping[str, Any]
    own: Config
    notes: tuple[str, ...] = ()

    @staticmethod
    def open(path: Path, like: Source | None = None) -> VaeFile:
        """Open a file whose VAE has the config of `like`, by default Stable Diffusion's.

        Raises `CheckpointError` if it has no VAE, or another.
        """
        file = open_tensors(path)
        spelling = find_vae(file)
        if spelling is None:
            raise CheckpointError(path, "has no VAE: give a file that has one")
        config = ARCHITECTURES["sd15"][_VAE] if like is None else like.config(_VAE)
        weights = spelled_tensors(file, spelling, _VAE, config)
        first = weights.entry("decoder.conv_in.weight").shape
        expected = (config["block_out_channels"][-1], config["latent_channels"])
        if first[:2] != expected:
            problem = f"its VAE has {first[0]} channels and latents of {first[1]}"
            wanted = f"expected {expected[0]} and {expected[1]}"
            raise CheckpointError(path, f"{problem}, {wanted}: it is another model's")
        return VaeFile(path, weights, {}, config)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def config(self, folder: str) -> Config:
        """The config of the VAE."""
        _only(folder)
        return self.own

    def tensors(self, folder: str) -> SpelledTensors:
        """The tensors of the VAE."""
        _only(folder)
        return self.weights

    def tokenizer(self, folder: str) -> dict[str, bytes]:
        """None: raises `KeyError`."""
        raise KeyError(folder)


def _only(folder: str) -> str:
    if folder != _VAE:
        raise KeyError(folder)
    return folder
