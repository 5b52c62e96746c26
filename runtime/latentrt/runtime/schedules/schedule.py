"""What one run evaluates: the noise levels, in order, and how the latent enters and leaves them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

from latentrt.bundle.errors import InputError
from latentrt.runtime.prediction import PredictionType

__all__ = ["Clipping", "Evaluation", "Option", "Position", "Schedule"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One call of the model.

    `timestep` is the model's input; `sigma` the noise level of the latent it sees, and
    `sigma_next` the level that its step ends at, both standard deviations at data scale 1. The next
    step's `sigma` may differ from `sigma_next`: DDIM steps to a level that is on no list. `stage`
    counts the evaluations of one step from 0. A sampler of second order has two in a step, the
    second at a level of its own.
    """

    timestep: float
    sigma: float
    sigma_next: float
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a run an evaluation is: which of all evaluations, and of all steps, from 0."""

    evaluation: int
    evaluations: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Clipping:
    """How the estimate of x0 is kept in range.

    Without `quantile`, to [-limit, limit]. With it, by dynamic thresholding: the range is that
    quantile of the estimate's magnitude, from 1 to `limit`, and the result is divided by it. Ranges
    are those of the model's own data, which is `scale` times what the sampler sees.

    Source: arXiv:2205.11487, section 2.3.
    """

    limit: float
    quantile: float | None = None
    scale: float = 1.0


_BY_EVALUATION: Final = frozenset({"orders", "through"})
"""Options with one value for each evaluation."""
_STEPS: Final = frozenset({"disable_corrector"})
"""Options that are numbers of steps."""

Option = bool | float | int | str | tuple[float, ...] | tuple[int, ...]
"""What a config says to a sampler: a keyword argument's value."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The evaluations of one run and everything else a sampler has to know.

    Noise of unit variance times `init_scale` is the first latent; the sampler's result times
    `final_scale` is the picture's latent. `sampler` is the name of the function this was made for,
    `options` are its keyword arguments. `spacing` is the name of the schedule ("karras",
    "trailing", ...), None for the sampler class's own timesteps. `data_scale` is what a picture's
    latent is divided by to be at data scale 1: an EDM model's. Raises InputError if a level is
    not finite or a step's level rises: such a schedule adds noise.
    """

    sampler: str
    evaluations: tuple[Evaluation, ...]
    init_scale: float
    final_scale: float
    prediction_type: PredictionType
    clipping: Clipping | None = None
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    spacing: str | None = None
    data_scale: float = 1.0

    def __post_init__(self) -> None:
        steps = [e for e in self.evaluations if e.stage == 0]
        for e in self.evaluations:
            if not (math.isfinite(e.timestep) and 0.0 < e.sigma < math.inf):
                raise InputError("schedule", "finite noise levels above 0", e)
        rises = [(e.sigma, e.sigma_next) for e in steps if not 0.0 <= e.sigma_next <= e.sigma]
        rises += [(e.sigma, f.sigma) for e, f in itertools.pairwise(steps) if f.sigma > e.sigma]
        if rises:
            low, high = rises[0]
            expected = "noise levels that never rise (fewer steps may do)"
            raise InputError("schedule", expected, f"{low:g} before {high:g}")

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return sum(e.stage == 0 for e in self.evaluations)

    @property
    def positions(self) -> tuple[Position, ...]:
        """Where each evaluation is."""
        starts = [e.stage == 0 for e in self.evaluations]
        steps = itertools.accumulate(starts)
        return tuple(
            Position(index, len(starts), step - 1, sum(starts)) for index, step in enumerate(steps)
        )

    def ended(self, steps: int) -> Schedule:
        """The first `steps` steps alone: what comes out is at the level of the step after them.

        It has no final scale: it is x0 + sigma * noise.
        """
        starts = [i for i, e in enumerate(self.evaluations) if e.stage == 0]
        last = starts[steps] if steps < len(starts) else len(self.evaluations)
        options = dict(self.options)
        for name in _BY_EVALUATION & set(options):
            options[name] = cast("tuple[float, ...]", options[name])[:last]
        return replace(
            self, evaluations=self.evaluations[:last], options=options, final_scale=self.data_scale
        )

    def begun(self, steps: int) -> Schedule:
        """The same without its first `steps` steps, of which at least one is left.

        What a sampler knows from earlier steps is not there: it begins as with its first.
        """
        starts = [i for i, e in enumerate(self.evaluations) if e.stage == 0]
        first = starts[steps]
        options = dict(self.options)
        for name in _BY_EVALUATION & set(options):
            options[name] = cast("tuple[float, ...]", options[name])[first:]
        for name in _STEPS & set(options):
            counted = cast("tuple[int, ...]", options[name])
            options[name] = tuple(step - steps for step in counted if step >= steps)
        return replace(self, evaluations=self.evaluations[first:], options=options)
