"""How far engines are from PyTorch, as data: what was held against what, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import RUN_PROMPT, RUN_STEPS, Difference
from latentrt.runtime.checks import text
from latentrt.runtime.size import Size

SCHEMA: Final = 4
"""Of the JSON; 1 had neither steps alone, nor SSIM, nor several runs, nor said which it was, 2 did
not say of what bundle it was, nor on what machine, nor what size a run has, 3 had no engines that
failed."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: a prompt, the seed of the noise, steps, and a size (None: the model's)."""

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
    """PyTorch's answers to one prompt, named as goldens are (see `latentrt.bundle.golden`).

    `noise` says where the run's starting noise is from.
    """

    prompt: str
    noise: str
    tensors: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: its worst output's differences, and what it was allowed."""

    name: str
    difference: Difference
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the relative error is within the tolerance."""
        return self.difference.relative <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers become null."""
        return {"name": self.name, **finite(asdict(self.difference)), "tolerance": self.tolerance}


@dataclass(frozen=True, slots=True, eq=False)
class RunComparison:
    """A guided run against PyTorch's: every step in two ways, and the picture.

    `alone` has each step made from the reference's own latents and prompts: one evaluation's
    error. `steps` has our own run, whose errors accumulate from the prompts on. Where both grow,
    the engine is off; where `steps` alone does, rounding diverges. `psnr` is in decibel, `ssim` at
    most 1; both pictures are float32 [3, H, W] in [-1, 1].
    """

    prompt: str
    noise: str
    alone: tuple[Row, ...]
    steps: tuple[Row, ...]
    psnr: float
    ssim: float
    picture: NDArray[np.float32]
    reference: NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object without the pictures; infinite numbers become null."""
        height, width = self.reference.shape[1:]
        return {
            "prompt": self.prompt,
            "noise": self.noise,
            "size": str(Size(width, height)),
            "steps_alone": [row.to_json() for row in self.alone],
            "steps": [row.to_json() for row in self.steps],
            **finite({"picture_psnr": self.psnr, "picture_ssim": self.ssim}),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one bundle's engines are from PyTorch's fp32.

    `components` ends with the prompts: what the U-Net is told, from the text on. Where there are
    several runs, what is said of all of them is the worst. `adherence` is the share of pictures, 0
    to 1, that show what was asked for, by what was asked; empty where that was not looked at.
    """

    engines: Mapping[str, str]
    precisions: Mapping[str, str]
    components: tuple[Row, ...]
    runs: tuple[RunComparison, ...]
    least_psnr: float
    adherence: Mapping[str, float]

    @property
    def name(self) -> str:
        """The engines and their precisions in words."""
        used = {f"{name} {self.precisions[c]}": None for c, name in self.engines.items()}
        return ", ".join(sorted(used))

    @property
    def steps(self) -> tuple[Row, ...]:
        """Our own runs, step by step."""
        return worst([run.steps for run in self.runs])

    @property
    def alone(self) -> tuple[Row, ...]:
        """Every step from the reference's own latents."""
        return worst([run.alone for run in self.runs])

    @property
    def picture_psnr(self) -> float:
        """Of the final picture, in decibel; NaN where any run's is."""
        return float(np.min([run.psnr for run in self.runs]))

    @property
    def picture_ssim(self) -> float:
        """Of the final picture, at most 1; NaN where any run's is."""
        return float(np.min([run.ssim for run in self.runs]))

    @property
    def first_bad_step(self) -> int | None:
        """Index of the first step that leaves its tolerance, or None."""
        return next((i for i, row in enumerate(self.steps) if not row.passed), None)

    @property
    def alike(self) -> bool:
        """Whether every picture is near enough to its reference; one with NaN never is."""
        return self.picture_psnr >= self.least_psnr

    @property
    def passed(self) -> bool:
        """Whether everything is within its tolerance."""
        rows = (*self.components, *self.alone, *self.steps)
        return all(row.passed for row in rows) and self.alike

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers become null."""
        numbers = {"picture_psnr": self.picture_psnr, "picture_ssim": self.picture_ssim}
        return {
            "schema": SCHEMA,
            "engines": dict(self.engines),
            "precisions": dict(self.precisions),
            "components": [row.to_json() for row in self.components],
            "steps_alone": [row.to_json() for row in self.alone],
            "steps": [row.to_json() for row in self.steps],
            **finite(numbers),
            "least_psnr": self.least_psnr,
            "first_bad_step": self.first_bad_step,
            "adherence": dict(self.adherence) or None,
            "runs": [run.to_json() for run in self.runs],
            "passed": self.passed,
        }


def worst(groups: Sequence[Iterable[Row]]) -> tuple[Row, ...]:
    """Of rows that are about the same things, each thing's worst."""
    return tuple(
        max(rows, key=lambda row: row.difference.relative) for rows in zip(*groups, strict=True)
    )


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON has them: what is not finite becomes None."""
    return {k: v if math.isfinite(v) else None for k, v in values.items()}
