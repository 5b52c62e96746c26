"""What evaluates a latent: rows of a U-Net, and guidance between what it gives for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.guidance import Guidance, guide
from latentrt.runtime.prediction import model_input
from latentrt.runtime.rows import Arrays, Evaluation, Model, Need, Row
from latentrt.runtime.samplers.denoise import Denoise
from latentrt.runtime.schedules.schedule import Position, Schedule


class Denoiser(Protocol):
    """What a sampler's latents are evaluated by."""

    def __call__(
        self, asked: Denoise, at: Position, channels: NDArray[np.float32] | None = None
    ) -> Evaluation[NDArray[np.float32]]:
        """The evaluation of one latent; it returns the model output, float32 [c, h, w], guided.

        `at` is where in the run that is. `channels`, float32 [n, h, w], are the picture's own and
        follow the scaled latent in the U-Net's `sample`.
        """
        ...

    def of(self, image: int) -> Denoiser:
        """The same for one of the request's pictures."""
        ...

    def needs(self, schedule: Schedule, shape: tuple[int, int]) -> frozenset[Need]:
        """The engines that evaluations over a schedule call, for latents of a height and width.

        Raises `InputError` where they would fail.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One prompt, or the negative one, as the U-Net takes it.

    `constant` are its inputs but `sample` and `timestep`, without a batch axis; `weight` is how
    much it pulls among several prompts. `changes` are the inputs from later steps on, each with the
    step that it begins at, which counts from 0 and rises.
    """

    constant: Arrays
    weight: float = 1.0
    changes: tuple[tuple[int, Arrays], ...] = ()

    def at(self, step: int) -> Arrays:
        """The inputs at a step, which counts from 0; the same object for as long as it holds."""
        found = self.constant
        for first, arrays in self.changes:
            if first <= step:
                found = arrays
        return found

    def towards(self, other: Condition, share: float) -> Condition:
        """A share of the way to another one, along a straight line, at every step."""
        begins = sorted({first for each in (self, other) for first, _ in each.changes})
        changes = [(first, _mixed(self.at(first), other.at(first), share)) for first in begins]
        return Condition(_mixed(self.at(0), other.at(0), share), self.weight, tuple(changes))


def _mixed(low: Arrays, high: Arrays, share: float) -> Arrays:
    """A share of the way between arrays; one that both have stays the same object."""
    kept, taken = np.float32(1.0 - share), np.float32(share)
    return {n: a if a is high[n] else a * kept + high[n] * taken for n, a in low.items()}


def model_inputs(asked: Denoise, channels: NDArray[np.float32] | None) -> Arrays:
    """What a U-Net takes of a latent: the scaled latent, further channels behind it, the time."""
    sample = model_input(asked.latent, asked.sigma)
    if channels is not None:
        sample = np.concatenate([sample, channels])
    return {"sample": sample, "timestep": np.array(asked.timestep, np.float32)}


def example_row(unet: Model, shape: tuple[int, int], constant: Arrays) -> Row:
    """A row of a U-Net for latents of a height and width, for its sizes."""
    channels = next(spec.dims[1] for spec in unet.inputs if spec.name == "sample")
    assert isinstance(channels, int)
    sample = np.empty((channels, *shape), np.float32)
    return Row(unet, {"sample": sample, "timestep": np.zeros((), np.float32)}, constant)


@dataclass(frozen=True, slots=True, eq=False)
class GuidedDenoiser:
    """A U-Net under classifier-free guidance.

    Without a `negative` condition the prompt alone decides. `towards` is the condition that
    pictures go to, each by its share of `shares`.
    """

    unet: Model
    prompts: tuple[Condition, ...]
    negative: Condition | None
    guidance: Guidance
    towards: Condition | None = None
    shares: tuple[float, ...] = ()

    def __call__(
        self, asked: Denoise, at: Position, channels: NDArray[np.float32] | None = None
    ) -> Evaluation[NDArray[np.float32]]:
        """Evaluate a latent for the negative prompt and the prompts, and guide between them."""
        scale = self.scale_at(asked.sigma, at)
        changing = model_inputs(asked, channels)
        conditions = self._conditions(scale)
        answers = yield [
            Row(self.unet, changing, each.at(at.step), negative=each is self.negative)
            for each in conditions
        ]
        outputs = [answer["model_output"] for answer in answers]
        if len(outputs) == 1:
            return outputs[0]
        # At scale 1 several prompts are still a sum, but nothing is there to be pulled back.
        rescale = self.guidance.rescale if scale > 1.0 else 0.0
        weights = [each.weight for each in self.prompts]
        return guide(outputs[0], outputs[1:], weights, scale=scale, rescale=rescale)

    def of(self, image: int) -> GuidedDenoiser:
        """The same for one of the request's pictures, whose prompt may be its own."""
        if self.towards is None:
            return self
        (prompt,) = self.prompts
        mixed = prompt.towards(self.towards, self.shares[image])
        return replace(self, prompts=(mixed,), towards=None)

    def needs(self, schedule: Schedule, shape: tuple[int, int]) -> frozenset[Need]:
        """The U-Net at the rows its evaluations have; a scale function that fails does so here."""
        counts = {len(self._conditions(scale)) for scale in self.scales(schedule)}
        row = example_row(self.unet, shape, self.prompts[0].constant)
        return frozenset(Need.of(row, count) for count in counts)

    def scale_at(self, sigma: float, at: Position) -> float:
        """The guidance scale at a noise level of a run: 1 where the prompts alone decide."""
        if self.negative is None or not self.guidance.guides(at.step, at.steps):
            return 1.0
        return self.guidance.scale_at(sigma)

    def scales(self, schedule: Schedule) -> set[float]:
        """The guidance scales of a run; raises `InputError` for a function that fails."""
        pairs = zip(schedule.evaluations, schedule.positions, strict=True)
        return {self.scale_at(e.sigma, at) for e, at in pairs}

    def _conditions(self, scale: float) -> tuple[Condition, ...]:
        """The condition of each row at a guidance scale, the negative prompt's first.

        One prompt needs no negative row where the scale is 1; a sum of several always does.
        """
        alone = scale <= 1.0 and len(self.prompts) == 1
        if self.negative is None or alone:
            return self.prompts
        return (self.negative, *self.prompts)
