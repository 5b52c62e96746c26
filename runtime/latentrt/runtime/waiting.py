"""Pictures among others: their rows waiting for a U-Net call, their latents for a VAE call."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.batched_run import BatchedRun
from latentrt.runtime.plan import Latent
from latentrt.runtime.rows import Batches, Row, RowKind
from latentrt.runtime.trajectory import Trajectory

__all__ = ["WaitingPicture", "WaitingRow", "take_alike"]

_Waiting = TypeVar("_Waiting")


@dataclass(slots=True, eq=False)
class WaitingPicture:
    """A trajectory among others, and what of its present rows is answered.

    `kind` is the model and the signature of its rows. `batches` are those that had its last rows;
    they are kept for its next ones.
    """

    run: BatchedRun
    trajectory: Trajectory
    kind: RowKind
    outputs: list[NDArray[np.float32] | None] = field(
        default_factory=list[NDArray[np.float32] | None]
    )
    batches: Batches | None = None

    @staticmethod
    def of(run: BatchedRun, image: int) -> WaitingPicture:
        """Picture `image` of a run, at its first rows."""
        trajectory = Trajectory(run.plan, image, run.preview)
        return WaitingPicture(run, trajectory, (run.plan.unet, trajectory.rows[0].signature))

    def rows(self) -> list[WaitingRow]:
        """Its next rows, none of them answered."""
        self.outputs = [None] * len(self.trajectory.rows)
        return [WaitingRow(self, place) for place in range(len(self.outputs))]

    @property
    def answered(self) -> bool:
        """Whether it can take its step."""
        return all(output is not None for output in self.outputs)

    @property
    def latent(self) -> Latent:
        """What is to be decoded, float32 [c, h, w], once it has taken all its steps."""
        assert self.trajectory.latent is not None
        return self.trajectory.latent


@dataclass(frozen=True, slots=True, eq=False)
class WaitingRow:
    """Row `place` of a picture's evaluation."""

    picture: WaitingPicture
    place: int

    @property
    def row(self) -> Row:
        """What the model is asked."""
        return self.picture.trajectory.rows[self.place]

    def answer(self, output: NDArray[np.float32]) -> None:
        """Keep what the model said."""
        self.picture.outputs[self.place] = output


def take_alike(
    waiting: deque[_Waiting], most: int, kind: Callable[[_Waiting], object]
) -> list[_Waiting]:
    """Take the first out of a line and up to `most - 1` of its kind after it, in their order."""
    wanted = kind(waiting[0])
    taken: list[_Waiting] = []
    left: list[_Waiting] = []
    for each in waiting:
        fits = len(taken) < most and kind(each) == wanted
        (taken if fits else left).append(each)
    waiting.clear()
    waiting.extend(left)
    return taken
