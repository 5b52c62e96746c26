"""What one run evaluates: the noise levels, in order, and how the latent enters and leaves them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from latentrt.bundle.errors import InputError
from latentrt.runtime.prediction import PredictionType

__all__ = ["Clipping", "Evaluation", "Multistep", "Schedule"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One call of the model.

    `timestep` is what the model is told; `sigma` the noise level of the latent it sees, and
    `sigma_next` the level the sampler steps to, both standard deviations at data scale 1. The next
    evaluation's `sigma` may differ from `sigma_next`: DDIM steps to a level that is on no list.
    """

    timestep: float
    sigma: float
    sigma_next: float


@dataclass(frozen=True, slots=True)
class Clipping:
    """How the estimate of x0 is kept in range.

    Without `quantile`, to [-limit, limit]. With it, by dynamic thresholding: the range is that
    quantile of the estimate's magnitude, from 1 to `limit`, and the result is divided by it.

    Source: arXiv:2205.11487, section 2.3.
    """

    limit: float
    quantile: float | None = None


@dataclass(frozen=True, slots=True)
class Multistep:
    """Which multistep formula a DPM-Solver++ uses, and whether its last step is of first order."""

    order: int
    solver_type: Literal["heun", "midpoint"]
    first_order_final: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """The evaluations of one run and everything else a sampler has to know.

    Noise of unit variance times `init_scale` is the first latent; the sampler's result times
    `final_scale` is the picture's latent. `sampler` is the short name of the sampler this was made
    for. Raises InputError if a level is not finite or a level rises: such a schedule adds noise.
    """

    sampler: str
    evaluations: tuple[Evaluation, ...]
    init_scale: float
    final_scale: float
    prediction_type: PredictionType
    clipping: Clipping | None = None
    multistep: Multistep | None = None

    def __post_init__(self) -> None:
        for e in self.evaluations:
            if not (math.isfinite(e.timestep) and 0.0 < e.sigma < math.inf):
                raise InputError("schedule", "finite noise levels above 0", e)
            if not 0.0 <= e.sigma_next <= e.sigma:
                raise InputError("schedule", "noise levels that never rise", e)
        for before, after in itertools.pairwise(self.evaluations):
            if after.sigma > before.sigma:
                raise InputError("schedule", "noise levels that never rise", (before, after))
