"""A request with everything that it needs to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.engine import Engine
from latentrt.runtime.conditioning import Conditioning
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Conditioning as RowConditioning
from latentrt.runtime.schedules import Schedule

Latent = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything a run needs, resolved: `request` has a seed and a size.

    `unet` gives the engine for a number of rows; `decode` turns latents [n, c, h, w] as the U-Net
    has them into pixels [n, 3, H, W] in [-1, 1]. Two plans share calls only where their `unet`, or
    their `decode`, are equal: each must equal those of its own model alone. `seconds` is what
    compiling and encoding the prompts took; `notes` say what a caller should know. `engines` are
    those that it will call: they are not freed while it holds them.
    """

    request: Request
    schedule: Schedule
    conditioning: Conditioning
    unet: Callable[[int], Engine]
    decode: Callable[[Latent], NDArray[np.float32]]
    latent_shape: tuple[int, int, int]
    model: str
    seconds: tuple[float, float]
    notes: tuple[str, ...] = ()
    engines: tuple[Engine, ...] = ()

    def scale_at(self, sigma: float) -> float:
        """The guidance scale at a noise level: 1 where the prompts alone decide."""
        if self.conditioning.negative is None:
            return 1.0
        return self.request.guidance.scale_at(sigma)

    def conditionings(self, scale: float) -> tuple[RowConditioning, ...]:
        """What each row of an evaluation at a guidance scale is told, the negative prompt's first.

        One prompt needs no negative row where the scale is 1; a sum of several always does.
        """
        negative, prompts = self.conditioning.negative, self.conditioning.prompts
        alone = scale <= 1.0 and len(prompts) == 1
        if negative is None or alone:
            return prompts
        return (negative, *prompts)

    @property
    def row_counts(self) -> frozenset[int]:
        """How many rows its evaluations have; a scale function that fails does so here."""
        levels = {e.sigma for e in self.schedule.evaluations}
        return frozenset(len(self.conditionings(self.scale_at(sigma))) for sigma in levels)
