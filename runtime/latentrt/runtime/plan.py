"""A request with everything that it needs to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.engine import Engine
from latentrt.runtime.denoiser import Denoiser
from latentrt.runtime.latent_to_rgb import LatentToRgb
from latentrt.runtime.noise import Noise, slerp
from latentrt.runtime.pixels import Pixels, unchanged
from latentrt.runtime.rows import Evaluation, Need
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.vae import Decoded

if TYPE_CHECKING:
    from latentrt.runtime.request import Request

Latent = NDArray[np.float32]


class PictureNoise:
    """The noise of one picture: a stream, and what its first latent is made of.

    `make` gives the stream of a seed. `given` takes the place of what the stream would start with;
    `start` is what it did start with. A `variation` is a share of the noise of another seed.
    """

    def __init__(
        self,
        make: Callable[[int], Noise],
        seed: int,
        given: Latent | None = None,
        variation: tuple[int, float] | None = None,
    ) -> None:
        self.stream = make(seed)
        self._make = make
        self._seed = seed
        self._given = given
        self._variation = variation
        self.start: Latent | None = None

    def begin(self, shape: tuple[int, ...]) -> Latent:
        """Noise of unit variance for the first latent, float32 of this shape."""
        self.start = self.stream.normal(shape) if self._given is None else self._given
        if self._variation is not None:
            seed, share = self._variation
            self.start = slerp(self.start, self._make(seed).normal(shape), share)
        return self.start

    def anew(self) -> PictureNoise:
        """The same from its beginning, without what was given."""
        return PictureNoise(self._make, self._seed, None, self._variation)


@dataclass(frozen=True, slots=True, eq=False)
class Keep:
    """The known region of a picture, which is put back at every step.

    `latent` float32 [c, h, w] is the known picture at data scale 1, `noise` its noise of unit
    variance. `mask` float32 [1, h, w] is 1 where the picture is drawn, 0 where it is kept.

    Source: diffusers' `StableDiffusionInpaintPipeline`, for U-Nets that know no masks.
    """

    latent: Latent
    noise: Latent
    mask: Latent

    def put_back(self, latent: Latent, sigma: float) -> Latent:
        """A latent of level `sigma` with the known region at that level in it."""
        known: Latent = self.noise * sigma  # a Python float: the product stays float32
        known += self.latent
        change: Latent = latent - known
        change *= self.mask
        change += known
        return change


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What one picture begins a leg with.

    `latent` float32 [c, h, w] is x0 + sigma * noise at the first level of the leg's schedule.
    `channels` float32 [n, h, w] follow it in the U-Net's `sample`. `keep` is what stays known.
    """

    latent: Latent
    channels: Latent | None = None
    keep: Keep | None = None


Enter = Callable[[Latent | None, PictureNoise], Entry]
"""The previous leg's latent (None: there is none) and the picture's noise to a leg's beginning."""


Carry = Callable[[Latent, PictureNoise], Evaluation[Latent]]
"""A leg's latent to what the next one is entered with."""


@dataclass(frozen=True, slots=True, eq=False)
class Leg:
    """One run of a sampler: over which levels, what it asks, and what it begins with.

    `shape` (c, h, w) is that of its latents. `carry` takes the previous leg's latent there where
    its own differs, and calls what is `needed` for that. A leg that begins `anew` has the noise of
    the picture's seed from its beginning.
    """

    schedule: Schedule
    denoiser: Denoiser
    enter: Enter
    shape: tuple[int, int, int]
    carry: Carry | None = None
    needed: tuple[Need, ...] = ()
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Seconds that went before the first step: compiling, and encoding prompts and pictures."""

    compile: float = 0.0
    text: float = 0.0
    vae: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything a run needs, resolved: `request` has a seed and a size.

    A picture goes through the `legs` one after the other. `decode` then takes its latent [c, h, w],
    as the U-Net has it, to `Decoded` pixels. `finish` takes those as RGB, uint8
    [H, W, 3], to the picture, of any size. `batches` are the compiled batch sizes by
    kind of model, ascending; `together` is how many pictures a direct run draws at a time. `notes`
    say what a caller should know. `engines` are those that it will call: they are not freed while
    it holds them. `colours` are those of fast previews, None where the bundle has none.
    """

    request: Request
    legs: tuple[Leg, ...]
    decode: Callable[[Latent], Evaluation[Decoded]]
    model: str
    batches: Mapping[str, tuple[int, ...]]
    together: int = 1
    seconds: Prepared = field(default_factory=Prepared)
    notes: tuple[str, ...] = ()
    engines: tuple[Engine, ...] = ()
    finish: Callable[[Pixels], Pixels] = unchanged
    colours: LatentToRgb | None = None

    @property
    def schedule(self) -> Schedule:
        """The schedule of the first leg."""
        return self.legs[0].schedule

    @property
    def evaluations(self) -> int:
        """How many evaluations a picture has."""
        return sum(len(leg.schedule.evaluations) for leg in self.legs)
