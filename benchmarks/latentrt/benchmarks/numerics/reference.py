"""What PyTorch computes for one prompt: the numbers that engines are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import RUN_PROMPT, RUN_STEPS
from latentrt.runtime.checks import text
from latentrt.runtime.size import Size


@dataclass(frozen=True, slots=True)
class ReferenceRequest:
    """What PyTorch is to draw: a prompt, a seed, steps, and a size (None: the model's own).

    Raises `InputError` for steps or a seed out of range.
    """

    prompt: str = RUN_PROMPT
    seed: int = 0
    steps: int = RUN_STEPS
    size: Size | None = None

    def __post_init__(self) -> None:
        text("prompt", self.prompt)
        if not 1 <= self.steps <= 1000:
            raise InputError("steps", "an integer from 1 to 1000", self.steps)
        if not 0 <= self.seed < 2**63:
            raise InputError("seed", "an integer from 0 to 2**63 - 1", self.seed)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """PyTorch's numbers in fp32, named as goldens are (see `latentrt.bundle.golden`).

    `noise` says where the starting noise is from.
    """

    prompt: str
    noise: str
    tensors: Mapping[str, NDArray[Any]]

    @staticmethod
    def stored(bundle: Bundle) -> Reference:
        """The goldens of a bundle; raises `BundleError` if it has none."""
        return Reference(RUN_PROMPT, "stored", bundle.golden())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        height, width = self.tensors["run/images"].shape[2:]
        return height, width

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the run."""
        return float(self.tensors["run/guidance_scale"][0])

    def inputs(self, bundle: Bundle, component: str) -> dict[str, NDArray[Any]]:
        """The inputs of the one evaluation of a component that is kept."""
        specs = bundle.manifest.components[component].inputs
        return {spec.name: self.tensors[f"{component}/inputs/{spec.name}"] for spec in specs}

    def outputs(self, bundle: Bundle, component: str) -> dict[str, NDArray[Any]]:
        """PyTorch's outputs of that evaluation."""
        specs = bundle.manifest.components[component].outputs
        return {spec.name: self.tensors[f"{component}/outputs/{spec.name}"] for spec in specs}

    def sizes(self, bundle: Bundle, component: str) -> dict[str, int]:
        """The sizes of the component's symbols in that evaluation."""
        found: dict[str, int] = {}
        for spec in bundle.manifest.components[component].inputs:
            shape = self.tensors[f"{component}/inputs/{spec.name}"].shape
            found |= {d: n for d, n in zip(spec.dims, shape, strict=True) if isinstance(d, str)}
        return found

    def latents(self, step: int) -> NDArray[np.float32]:
        """The latent [c, h, w] after a step, at the scale of the model's own data."""
        return self.tensors[f"run/steps/{step}/latents"][0]
