"""How far engines are from PyTorch: errors beside their tolerances."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.golden import Difference
from latentrt.runtime.size import Size

_CLIP: Final = ("picture_clip", "reference_clip")


@dataclass(frozen=True, slots=True)
class Check:
    """One output compared with PyTorch's; `tolerance` is the largest relative error allowed."""

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
    """One guided run: every step in two ways, and the picture.

    `alone` computes each step from PyTorch's latents and prompt states: the error of one
    evaluation. `steps` is our own run from the prompt on: its errors add up. Where both grow, the
    engine is wrong; where only `steps` grows, rounding diverges. `psnr` is in decibels, `ssim` at
    most 1; both pictures are float32 [3, H, W] in [-1, 1]. `clip` is the similarity of the picture
    and of the reference to the prompt, where a CLIP measured it.
    """

    prompt: str
    noise: str
    alone: tuple[Check, ...]
    steps: tuple[Check, ...]
    psnr: float
    ssim: float
    picture: NDArray[np.float32]
    reference: NDArray[np.float32]
    clip: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object without the pictures; infinite numbers become null."""
        height, width = self.reference.shape[1:]
        return {
            "prompt": self.prompt,
            "noise": self.noise,
            "size": str(Size(width, height)),
            "steps_alone": [check.to_json() for check in self.alone],
            "steps": [check.to_json() for check in self.steps],
            **finite({"picture_psnr": self.psnr, "picture_ssim": self.ssim}),
            **({} if self.clip is None else finite(dict(zip(_CLIP, self.clip, strict=True)))),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One engine, or one for each component, compared with PyTorch in fp32.

    `components` has one check for each component; the last is `prompts`, the text states that the
    U-Net is given. Of several runs, each number is the worst.
    """

    engines: Mapping[str, str]
    precisions: Mapping[str, str]
    components: tuple[Check, ...]
    runs: tuple[RunComparison, ...]
    least_psnr: float

    @property
    def name(self) -> str:
        """The engines with their precisions."""
        used = {f"{name} {self.precisions[c]}" for c, name in self.engines.items()}
        return ", ".join(sorted(used))

    @property
    def steps(self) -> tuple[Check, ...]:
        """Our own runs, step by step."""
        return worst([run.steps for run in self.runs])

    @property
    def alone(self) -> tuple[Check, ...]:
        """Every step from PyTorch's own latents."""
        return worst([run.alone for run in self.runs])

    @property
    def picture_psnr(self) -> float:
        """Of the final picture, in decibels; NaN where any run's is."""
        return float(np.min([run.psnr for run in self.runs]))

    @property
    def picture_ssim(self) -> float:
        """Of the final picture, at most 1; NaN where any run's is."""
        return float(np.min([run.ssim for run in self.runs]))

    @property
    def clip(self) -> tuple[float, float] | None:
        """Mean similarity of the pictures and of PyTorch's to their prompts, where measured."""
        found = [run.clip for run in self.runs if run.clip is not None]
        if not found:
            return None
        ours, theirs = np.mean(found, axis=0).tolist()
        return ours, theirs

    @property
    def first_bad_step(self) -> int | None:
        """Index of the first step of our run that is out of tolerance, or None."""
        return next((i for i, check in enumerate(self.steps) if not check.passed), None)

    @property
    def alike(self) -> bool:
        """Whether every picture is near enough to PyTorch's; one with NaN never is."""
        return self.picture_psnr >= self.least_psnr

    @property
    def passed(self) -> bool:
        """Whether everything is within its tolerance."""
        checks = (*self.components, *self.alone, *self.steps)
        return all(check.passed for check in checks) and self.alike

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers become null."""
        return {
            "engines": dict(self.engines),
            "precisions": dict(self.precisions),
            "components": [check.to_json() for check in self.components],
            "steps_alone": [check.to_json() for check in self.alone],
            "steps": [check.to_json() for check in self.steps],
            **finite({"picture_psnr": self.picture_psnr, "picture_ssim": self.picture_ssim}),
            "least_psnr": self.least_psnr,
            "first_bad_step": self.first_bad_step,
            "runs": [run.to_json() for run in self.runs],
            "passed": self.passed,
        }


def worst(groups: Sequence[Iterable[Check]]) -> tuple[Check, ...]:
    """Of checks of the same things in several groups, the worst of each thing."""
    return tuple(max(checks, key=relative) for checks in zip(*groups, strict=True))


def relative(check: Check) -> float:
    """The relative error of a check."""
    return check.difference.relative


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON has them: NaN and infinity become None."""
    return {k: v if math.isfinite(v) else None for k, v in values.items()}
