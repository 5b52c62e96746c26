"""Real architectures with random weights: `random:sd15`, `random:sd21`, `random:sdxl`.

They serve to measure and test at real size without a download. Every tensor has a seed of its own,
from its name, so tensors can be made one at a time, in any order. Weights are scaled by their
fan-in, and the last layer of every residual branch is halved. So activations stay in range at any
depth.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.bundle.tensors import Entry
from latentrt.export.modules import described
from latentrt.weights import opening
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.clip_vocabulary import tokenizer_files
from latentrt.weights.configs import with_defaults
from latentrt.weights.source import Config, Source

PREFIX: Final = "random:"
_BRANCH_ENDS: Final = (
    "conv2.weight",
    "to_out.0.weight",
    "net.2.weight",
    "out_proj.weight",
    "fc2.weight",
)


def open_source(checkpoint: str | Path, variant: str | None = None) -> Source:
    """Open a random checkpoint by name, or any other as `latentrt.weights.opening` does.

    `variant` names the weights files of a folder to prefer, such as "fp16".
    """
    if str(checkpoint).startswith(PREFIX):
        if variant is not None:
            raise InputError("variant", f"none with {checkpoint}", repr(variant))
        return SyntheticCheckpoint.named(str(checkpoint))
    return opening.open_source(checkpoint, variant)


def _draws_from_text(configs: Mapping[str, Config]) -> bool:
    """Whether an architecture needs nothing but a prompt: no picture, no mask, no base model."""
    unet, vae = (with_defaults(folder, configs[folder]) for folder in ("unet", "vae"))
    return "text_encoder" in configs and unet["in_channels"] == vae["latent_channels"]


@dataclass(frozen=True, slots=True)
class SyntheticCheckpoint:
    """A checkpoint with the interface of a folder, whose tensors are made when they are read."""

    name: str
    configs: Mapping[str, Config]
    seed: int = 0
    notes: tuple[str, ...] = ()

    @staticmethod
    def named(name: str) -> SyntheticCheckpoint:
        """The checkpoint called e.g. `random:sd15`; raises `InputError` for an unknown one."""
        key = name.removeprefix(PREFIX)
        drawn = [k for k, configs in ARCHITECTURES.items() if _draws_from_text(configs)]
        if key not in drawn:
            expected = f"one of {', '.join(PREFIX + k for k in drawn)}"
            raise InputError("checkpoint", expected, repr(name))
        return SyntheticCheckpoint(name, ARCHITECTURES[key])

    @property
    def index(self) -> Mapping[str, Any]:
        """`model_index.json`."""
        return self.configs["model_index"]

    def config(self, folder: str) -> Config:
        """The config of a component."""
        return self.configs[folder]

    def tensors(self, folder: str) -> SyntheticTensors:
        """The tensors of a component, none of them made yet."""
        return SyntheticTensors(described(folder, self.configs[folder]), f"{self.seed}/{folder}")

    def tokenizer(self, folder: str) -> dict[str, bytes]:
        """The files of CLIP's tokenizer."""
        return tokenizer_files(str(self.configs[folder]["pad_token"]))


class SyntheticTensors(Mapping[str, NDArray[Any]]):
    """Seeded random float32 tensors by name."""

    renamed = ""
    notes = ()

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: str) -> None:
        self._shapes = shapes
        self._seed = seed

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without making it."""
        shape = self._shapes[name]
        return Entry(name, np.dtype(np.float32), shape, 0, 4 * math.prod(shape))

    def place(self, name: str) -> None:
        """None: a tensor is made, and lies in no file."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        shape = self._shapes[name]
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        rng = np.random.Generator(np.random.SFC64(int.from_bytes(digest[:8], "little")))
        normal = rng.standard_normal(shape, dtype=np.float32)
        mean, std = _moments(name, shape)
        normal *= np.float32(std)
        normal += np.float32(mean)
        return normal

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _moments(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if len(shape) == 1:
        return (1.0, 0.05) if "norm" in name and name.endswith("weight") else (0.0, 0.02)
    if "embedding" in name and len(shape) == 2 and "time" not in name:
        return 0.0, 0.5  # tokens and positions: the first LayerNorm sees unit variance
    std = 1 / math.sqrt(math.prod(shape[1:]))
    return 0.0, std * 0.5 if name.endswith(_BRANCH_ENDS) else std
