"""A denoiser that remembers: evaluations whose input has changed little are not made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.denoiser import Denoiser
from latentrt.runtime.plan import Leg
from latentrt.runtime.prediction import PredictionType, denoised, model_input, model_output
from latentrt.runtime.reuse import Reuse
from latentrt.runtime.rows import Evaluation, Need
from latentrt.runtime.samplers.denoise import Denoise
from latentrt.runtime.schedules.schedule import Position, Schedule


class ReusingDenoiser:
    """A denoiser whose evaluations are answered from memory where a `Reuse` says so.

    What is remembered is the estimate of the finished latent. It belongs to one picture in one leg:
    `of` gives a denoiser that remembers nothing yet. Not thread-safe.
    """

    def __init__(self, inner: Denoiser, reuse: Reuse, prediction_type: PredictionType) -> None:
        self._inner = inner
        self._reuse = reuse
        self._prediction_type: PredictionType = prediction_type
        self._before: NDArray[np.float32] | None = None  # the input of the evaluation before
        self._changed = 0.0  # in all, since the last evaluation that was made
        self._answered = 0  # evaluations since then
        self._made: tuple[Denoise, NDArray[np.float32]] | None = None  # the last, and its output

    def __call__(
        self, asked: Denoise, at: Position, channels: NDArray[np.float32] | None = None
    ) -> Evaluation[NDArray[np.float32]]:
        """Evaluate a latent as the inner denoiser does, or answer without asking any model."""
        self._count(model_input(asked.latent, asked.sigma))
        reuses = self._reuse.answers(at.step, at.steps, self._changed, self._answered)
        if reuses and self._made is not None:
            self._answered += 1
            made, output = self._made
            kind = self._prediction_type
            estimate = denoised(made.latent, output, made.sigma, kind)
            return model_output(asked.latent, estimate, asked.sigma, kind)
        output = yield from self._inner(asked, at, channels)
        self._made, self._changed, self._answered = (asked, output), 0.0, 0
        return output

    def of(self, image: int) -> ReusingDenoiser:
        """The same for one of the request's pictures, with a memory of its own."""
        return ReusingDenoiser(self._inner.of(image), self._reuse, self._prediction_type)

    def needs(self, schedule: Schedule, shape: tuple[int, int]) -> frozenset[Need]:
        """What the inner denoiser needs."""
        return self._inner.needs(schedule, shape)

    def _count(self, sample: NDArray[np.float32]) -> None:
        if self._before is not None:
            self._changed += relative_change(self._before, sample)
        self._before = sample


def reused(legs: tuple[Leg, ...], reuse: Reuse | None) -> tuple[Leg, ...]:
    """The legs with a memory: each picture has one of its own in each of them."""
    if reuse is None:
        return legs
    return tuple(
        replace(leg, denoiser=ReusingDenoiser(leg.denoiser, reuse, leg.schedule.prediction_type))
        for leg in legs
    )


def relative_change(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """The mean magnitude of the difference over that of the array before, at least 0."""
    size = float(np.abs(before).mean())
    return float(np.abs(now - before).mean()) / size if size > 0 else 0.0
