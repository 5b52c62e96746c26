"""One picture on its way from noise: which rows it wants evaluated, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import NonFinite
from latentrt.runtime.checks import all_finite
from latentrt.runtime.guidance import guide
from latentrt.runtime.noise import noise_stream
from latentrt.runtime.plan import Latent, Plan
from latentrt.runtime.prediction import denoised, model_input
from latentrt.runtime.rows import Row
from latentrt.runtime.samplers import Denoise, Sampler, sample

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

    def preview(self) -> Image.Image:
        """The estimate as a picture, at the cost of one VAE decode."""
        return self._decode(self.denoised)


class Trajectory:
    """Picture `image` of a plan, step by step, for whoever calls the model. Not thread-safe.

    `start` is the noise it begins with, float32 [c, h, w] of unit variance. `rows` are what the
    model is to evaluate next; none are left at the end, and then `latent` is the picture's.
    """

    def __init__(self, plan: Plan, image: int, preview: Callable[[Latent], Image.Image]) -> None:
        request, schedule = plan.request, plan.schedule
        assert request.seed is not None
        self.image = image
        self._plan = plan
        self._preview = preview
        self._index = 0
        noise = noise_stream(
            request.generator, request.seed + image, brownian=request.sampling.brownian
        )
        given = request.latents
        self.start: Latent = noise.normal(plan.latent_shape) if given is None else given[image]
        self._sampler: Sampler = sample(
            self.start * np.float32(schedule.init_scale), schedule, noise=noise
        )
        self.latent: Latent | None = None
        self.rows: tuple[Row, ...] = ()
        self._scale = 1.0
        self._weights = (1.0, *(weight for _, weight in request.composed))
        self._ask(next(self._sampler))

    def advance(self, outputs: Sequence[NDArray[np.float32]]) -> Step:
        """Take the model's outputs for `rows`, each [c, h, w], and go on to the next rows.

        Raises `NonFinite` for outputs that are NaN or infinite.
        """
        asked, schedule = self._asked, self._plan.schedule
        output = self._guided(outputs)
        if not all_finite(output):
            raise NonFinite("unet", self._index)
        estimate = denoised(asked.latent, output, asked.sigma, schedule.prediction_type)
        estimate.flags.writeable = False  # the sampler goes on with what the caller is shown
        step = Step(
            self._index,
            len(schedule.evaluations),
            self.image,
            asked.sigma,
            asked.timestep,
            estimate,
            self._preview,
        )
        self._index += 1
        try:
            self._ask(self._sampler.send((asked.latent, estimate)))
        except StopIteration as finished:
            self.rows = ()
            self.latent = finished.value * np.float32(schedule.final_scale)
        return step

    def _ask(self, asked: Denoise) -> None:
        plan = self._plan
        self._asked = asked
        scaled = model_input(asked.latent, asked.sigma)
        self._scale = plan.scale_at(asked.sigma)
        conditionings = plan.conditionings(self._scale)
        self.rows = tuple(Row(scaled, asked.timestep, each) for each in conditionings)

    def _guided(self, outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        if len(outputs) == 1:
            return outputs[0]
        # At scale 1 several prompts are still a sum, but nothing is there to be pulled back.
        rescale = self._plan.request.guidance.rescale if self._scale > 1.0 else 0.0
        return guide(outputs[0], outputs[1:], self._weights, scale=self._scale, rescale=rescale)
