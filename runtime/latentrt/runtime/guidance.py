"""Classifier-free guidance: from the negative prompt's output towards the prompt's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import finite_numbers, json_object, number

MAX_SCALE: Final = 10_000.0
"""The largest guidance scale, and the largest weight of a prompt.

It is far beyond what makes pictures. A model sees its outputs again a step later, times this, and
half precision ends at 65504.
"""
_ROUNDING: Final = 1e-6
"""Deviations below this share of the largest number are rounding: a few units of the last place."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance (arXiv:2207.12598).

    `scale`, from 0 to `MAX_SCALE`, is how far to go from the negative prompt's output to the
    prompt's, as in diffusers. A function gives it for a noise level (sigma, at data scale 1). At 1
    or less only the prompt is evaluated. `rescale`, from 0 to 1, pulls the result's
    standard deviation back to the prompt's own (arXiv:2305.08891, section 3.4). `interval` (low,
    high) guides only where low < sigma <= high (arXiv:2404.07724). `start` and `stop`, from 0 to 1,
    are the share of a run's steps before the first guided one, and before the first that is not
    guided any more, as in diffusers' guiders. A sum of composed prompts has no
    prompt alone: where it is not guided, it is taken at scale 1.
    """

    scale: float | Callable[[float], float] = 7.5
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.scale):
            # A NumPy double would promote float32 arrays.
            object.__setattr__(self, "scale", _checked_scale(self.scale))
        rescale = number("guidance rescale", "a number from 0 to 1", self.rescale, 0.0, 1.0)
        object.__setattr__(self, "rescale", rescale)
        for field in ("start", "stop"):
            share = number(
                f"guidance {field}", "a number from 0 to 1", getattr(self, field), 0.0, 1.0
            )
            object.__setattr__(self, field, share)
        if self.start >= self.stop:
            expected = f"a number above the start, {self.start:g}"
            raise InputError("guidance stop", expected, self.stop)
        if self.interval is not None:
            # JSON has lists.
            low, high = finite_numbers("guidance interval", self.interval, 2)
            if not 0 <= low < high:
                raise InputError("guidance interval", "low below high", self.interval)
            object.__setattr__(self, "interval", (low, high))

    @property
    def active(self) -> bool:
        """Whether the negative prompt may be evaluated at all."""
        return callable(self.scale) or self.scale > 1

    def guides(self, step: int, steps: int) -> bool:
        """Whether a step, which counts from 0, lies between start and stop.

        Source: `ClassifierFreeGuidance` of diffusers.
        """
        return int(self.start * steps) <= step < int(self.stop * steps)

    def scale_at(self, sigma: float) -> float:
        """The scale at a noise level, 1 wherever only the prompt is to be evaluated.

        Raises `InputError` if a function fails or gives what is no scale.
        """
        if self.interval is not None and not self.interval[0] < sigma <= self.interval[1]:
            return 1.0
        if not callable(self.scale):
            return max(self.scale, 1.0)
        try:
            scale = self.scale(sigma)
        except Exception as error:  # the function is the caller's
            expected = f"a function that gives a number for sigma {sigma:g}"
            raise InputError("guidance scale", expected, shown(error)) from error
        return max(_checked_scale(scale), 1.0)

    @property
    def scale_text(self) -> str:
        """The scale as text; of a function its name."""
        if callable(self.scale):
            return f"function {getattr(self.scale, '__name__', '')}".rstrip()
        return f"{self.scale:g}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; of a function only its name, which `from_json` refuses."""
        return {
            "scale": self.scale_text if callable(self.scale) else self.scale,
            "rescale": self.rescale,
            "interval": None if self.interval is None else list(self.interval),
            "start": self.start,
            "stop": self.stop,
        }

    @staticmethod
    def from_json(value: object) -> Guidance:
        """From `to_json`; a key that is absent has its default.

        Raises `InputError`, also for a scale that was a function.
        """
        return Guidance(**json_object("guidance", value, [f.name for f in fields(Guidance)]))


def guide(
    negative: NDArray[np.float32],
    prompts: Sequence[NDArray[np.float32]],
    weights: Sequence[float],
    *,
    scale: float,
    rescale: float = 0.0,
) -> NDArray[np.float32]:
    """One guided model output from those of a negative prompt and of weighted prompts.

    All are float32 [c, h, w]: negative + scale * sum of weight * (prompt - negative). `rescale`
    pulls the standard deviation back to that of the same at scale 1. A constant result has none: it
    stays as it is.

    Source: arXiv:2207.12598, eq. 6 (in diffusers' convention: 1 is no guidance); arXiv:2206.01714,
    eq. 11 (several prompts); arXiv:2305.08891, eq. 15 and 16, with the unbiased deviation that
    diffusers takes.
    """
    direction: NDArray[np.float32] = prompts[0] - negative
    if weights[0] != 1.0:
        direction *= weights[0]
    for prompt, weight in zip(prompts[1:], weights[1:], strict=True):
        direction += (prompt - negative) * weight
    if rescale == 0:
        direction *= scale
        direction += negative
        return direction
    guided: NDArray[np.float32] = direction * scale + negative
    # One prompt at scale 1 is the prompt's own output, to the last bit.
    unguided: NDArray[np.float32] = prompts[0] if len(prompts) == 1 else np.add(negative, direction)
    deviation = float(guided.std(ddof=1))
    if deviation <= _ROUNDING * float(np.abs(guided).max()):
        # diffusers divides by it, which gives no number, or rounding times millions.
        return guided
    ratio = float(unguided.std(ddof=1)) / deviation
    return guided * (rescale * ratio + (1 - rescale))


def _checked_scale(scale: float) -> float:
    expected = f"a finite number from 0 to {MAX_SCALE:g}"
    return number("guidance scale", expected, scale, 0.0, MAX_SCALE)
