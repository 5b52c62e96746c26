"""What a task makes its legs of: a request's schedule, its denoiser, and its encoded pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.manifest import Manifest
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.denoiser import GuidedDenoiser
from latentrt.runtime.opening import Opening
from latentrt.runtime.prompts.schedule import Steps
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Calls, Model
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.schedules import WHOLE, Part, Schedule
from latentrt.runtime.size import Size
from latentrt.runtime.vae import Posterior, Vae

_ONE: Final = {"unet": (1,), "vae": (1,)}
"""Batch sizes: a plan encodes one text or picture at a time."""


@dataclass(slots=True)
class Spent:
    """What making a plan has taken so far: seconds, and what is to be said of it."""

    text: float = 0.0
    vae: float = 0.0
    notes: tuple[str, ...] = ()


def unet_channels(manifest: Manifest) -> int:
    """Channels of the U-Net's `sample`: those of the latent, and what a task adds."""
    inputs = manifest.components["unet"].inputs
    channels = next(spec.dims[1] for spec in inputs if spec.name == "sample")
    assert isinstance(channels, int)
    return channels


@dataclass(frozen=True, slots=True, eq=False)
class Kit:
    """The means of one bundle for one request, whose size and seed are resolved.

    `models` are the bundle's components; `schedules` gives the schedule of a part of a sampling;
    `opening` opens engines. `spent` tells what was done. Below the timestep `above` another model
    goes on.
    """

    request: Request
    manifest: Manifest
    models: Mapping[str, Model]
    vae: Vae
    conditioner: Conditioner
    schedules: Callable[[Sampling, Part], Schedule]
    opening: Opening
    spent: Spent
    above: int | None = None

    @property
    def size(self) -> Size:
        """The size of pictures."""
        assert self.request.size is not None
        return self.request.size

    @property
    def factor(self) -> int:
        """Pixels of a latent along each axis."""
        return self.manifest.vae_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of latents."""
        size, factor = self.size, self.factor
        return self.manifest.latent_channels, size.height // factor, size.width // factor

    @property
    def extra_channels(self) -> int:
        """How many channels the U-Net takes beside those of the latent."""
        return unet_channels(self.manifest) - self.manifest.latent_channels

    def at(self, size: Size) -> Kit:
        """The same for pictures of another size."""
        return replace(self, request=self.request.with_values(size=size, latents=None))

    def schedule(self, part: Part = WHOLE, *, steps: int | None = None) -> Schedule:
        """The request's schedule, or the part of it at the lower levels, of other `steps`."""
        sampling = self.request.sampling
        if steps is not None:
            sampling = replace(sampling, steps=steps)
        return self.schedules(sampling, replace(part, above=self.above))

    def denoiser(self, schedule: Schedule, steps: Steps | None = None) -> GuidedDenoiser:
        """The U-Net under the request's prompts over a schedule.

        `steps` are those that the prompts change within; None are those of the schedule.
        """
        sizes = {"batch": 1, "sequence": self.conditioner.length}
        for name, model in self.models.items():
            if name.startswith("text_encoder"):
                self.opening(model, sizes)
        begun = time.perf_counter()
        within = self._steps(schedule) if steps is None else steps
        found = Calls(_ONE).answer(self.conditioner(self.request, within))
        self.spent.text += time.perf_counter() - begun
        self.spent.notes += tuple(n for n in found.notes if n not in self.spent.notes)
        between, count = self.request.interpolation, self.request.num_images
        shares = () if between is None else (between.share_of(i, count) for i in range(count))
        return GuidedDenoiser(
            self.models["unet"],
            found.prompts,
            found.negative,
            self.request.guidance,
            found.towards,
            tuple(shares),
        )

    def _steps(self, schedule: Schedule) -> Steps:
        """Those of a schedule, and those that another model takes after them."""
        if self.above is not None:
            schedule = self.schedules(self.request.sampling, self.request.task.part)
        return Steps(schedule.steps)

    def encode(self, images: NDArray[np.float32]) -> Posterior:
        """A picture, float32 [3, h, w] in [-1, 1], as the VAE's encoder has it."""
        self.opening.more(1)
        need = self.vae.encoder_need(*(n // self.factor for n in images.shape[1:]))
        self.opening(need.model, need.at(1))
        begun = time.perf_counter()
        posterior = Calls(_ONE).answer(self.vae.encode(images))
        self.spent.vae += time.perf_counter() - begun
        return posterior
