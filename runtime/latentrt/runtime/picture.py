"""One picture in progress: the rows that it asks for, and what it makes of their outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError, NonFinite
from latentrt.runtime.checks import all_finite
from latentrt.runtime.latent_to_rgb import LatentToRgb
from latentrt.runtime.noise import noise_stream
from latentrt.runtime.plan import Latent, Leg, PictureNoise, Plan
from latentrt.runtime.prediction import denoised
from latentrt.runtime.rows import Batches, Evaluation, Model, Outputs, Row
from latentrt.runtime.samplers import sample
from latentrt.runtime.vae import Decoded

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One evaluation that is behind us.

    `index` counts from 0 to `total - 1` within picture `image`; `sigma` and `timestep` are those it
    was made at; `denoised` float32 [c, h, w] is the estimate of the finished latent.
    """

    index: int
    total: int
    image: int
    sigma: float
    timestep: float
    denoised: Latent
    _decode: Callable[[Latent], Image.Image] = field(repr=False)
    _colours: LatentToRgb | None = field(repr=False)

    def preview(self, *, fast: bool = False) -> Image.Image:
        """The estimate as a picture, at the cost of one VAE decode.

        With `fast` no model is asked: one matrix gives the colours. The preview then has the
        latent's size, 64 x 64 for a picture of 512 x 512, and no pixels that inpainting puts back.
        Both are thread-safe. `fast` raises `InputError` for a bundle of an older version that has
        no such matrix.
        """
        if not fast:
            return self._decode(self.denoised)
        if self._colours is None:
            expected = "False: the bundle has no matrix of colours; make it again"
            raise InputError("fast", expected, fast)
        return self._colours(self.denoised)


class Driven(Protocol):
    """The run that a picture belongs to, as who drives it sees it."""

    @property
    def plan(self) -> Plan:
        """What is drawn."""
        ...

    @property
    def ended(self) -> bool:
        """Whether it has its result, or never will."""
        ...

    def tell(self, step: Step) -> None:
        """One of its pictures has taken a step."""
        ...

    def finish(self, picture: Picture) -> None:
        """One of its pictures is decoded."""
        ...

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended already."""
        ...

    def preview(self, latent: Latent) -> Image.Image:
        """One latent as a picture."""
        ...


class Picture:
    """Picture `image` of a run, for the loop that calls the models. Not thread-safe.

    `rows` are what is to be evaluated next; none are left at the end. Then `latent` float32
    [c, h, w] is what was decoded, and `pixels` float32 [3, H, W] in [-1, 1] is the picture; `notes`
    say what a caller should know of it. `start`
    is the noise it began with, of unit variance. `batches` are the arrays of its calls, which are
    kept for its next ones of the same kind of model.
    """

    def __init__(self, run: Driven, image: int) -> None:
        request = run.plan.request
        assert request.seed is not None
        brownian = request.sampling.brownian
        given = None if request.latents is None else request.latents[image]
        self.run = run
        self.image = image
        self.latent: Latent | None = None
        self.pixels: NDArray[np.float32] | None = None
        self.batches: dict[Model, Batches] = {}
        self.notes: tuple[str, ...] = ()
        self._noise = PictureNoise(
            lambda seed: noise_stream(request.generator, seed, brownian=brownian),
            request.seed_of(image),
            given,
            request.variation_of(image),
        )
        self._drawing = _draw(run, image, self._noise)
        self._wait_for(next(self._drawing))

    @property
    def start(self) -> Latent:
        """The noise it began with, float32 [c, h, w] of unit variance."""
        assert self._noise.start is not None
        return self._noise.start

    @property
    def answered(self) -> bool:
        """Whether it can go on."""
        return all(output is not None for output in self._outputs)

    def answer(self, place: int, output: Outputs) -> None:
        """Keep what a model gave for row `place`."""
        self._outputs[place] = output

    def advance(self) -> None:
        """Go on with the outputs of all rows to the next rows.

        Raises `NonFinite` for outputs that are NaN or infinite.
        """
        outputs = [output for output in self._outputs if output is not None]
        try:
            self._wait_for(self._drawing.send(outputs))
        except StopIteration as finished:
            self._wait_for(())
            self.batches.clear()  # their engines may be freed
            decoded: Decoded
            self.latent, decoded = finished.value
            self.pixels, self.notes = decoded.pixels, decoded.notes

    def _wait_for(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        kinds = {row.model.kind for row in rows}
        others = [model for model in self.batches if kinds and model.kind not in kinds]
        for model in others:
            del self.batches[model]
        self._outputs: list[Outputs | None] = [None] * len(self.rows)


# The generators do not hold the picture that holds them. So it is freed with its last user, and its
# engines with it.


def _draw(run: Driven, image: int, noise: PictureNoise) -> Evaluation[tuple[Latent, Decoded]]:
    """A picture: one leg after the other, then the decoder. Gives its latent and its pixels."""
    plan = run.plan
    counted = itertools.count()
    latent: Latent | None = None
    for leg in plan.legs:
        noise = noise.anew() if leg.anew else noise
        if latent is not None and leg.carry is not None:
            latent = yield from leg.carry(latent, noise)
        latent = yield from _denoise(leg, latent, run, image, noise, counted)
    assert latent is not None
    return latent, (yield from plan.decode(latent))


def _denoise(
    leg: Leg,
    latent: Latent | None,
    run: Driven,
    image: int,
    noise: PictureNoise,
    counted: Iterator[int],
) -> Evaluation[Latent]:
    """One run of a sampler: it asks the denoiser, which asks the models."""
    schedule = leg.schedule
    entry = leg.enter(latent, noise)
    keep, colours = entry.keep, run.plan.colours
    denoiser = leg.denoiser.of(image)
    sampler = sample(entry.latent, schedule, noise=noise.stream)
    asked = next(sampler)
    for at in schedule.positions:
        index = next(counted)
        if keep is not None and at.evaluation > 0:
            asked = replace(asked, latent=keep.put_back(asked.latent, asked.sigma))
        output = yield from denoiser(asked, at, entry.channels)
        if not all_finite(output):
            raise NonFinite("unet", index)
        estimate = denoised(asked.latent, output, asked.sigma, schedule.prediction_type)
        estimate.flags.writeable = False  # the sampler goes on with what the caller is shown
        total = run.plan.evaluations
        clean = _at_scale(estimate, schedule.data_scale)
        step = Step(index, total, image, asked.sigma, asked.timestep, clean, run.preview, colours)
        run.tell(step)
        try:
            asked = sampler.send((asked.latent, estimate))
        except StopIteration as finished:
            last: Latent = finished.value
            if keep is not None:
                last = keep.put_back(
                    last * np.float32(schedule.final_scale / schedule.data_scale), 0
                )
                return last * np.float32(schedule.data_scale)
            return last * np.float32(schedule.final_scale)
    raise AssertionError  # a sampler ends with its schedule


def _at_scale(estimate: Latent, scale: float) -> Latent:
    """A clean latent of data scale 1 as the VAE is to have it, read-only."""
    if scale == 1:
        return estimate
    scaled: Latent = estimate * np.float32(scale)
    scaled.flags.writeable = False
    return scaled
