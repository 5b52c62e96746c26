"""What a task makes its legs of: a request's schedule, its denoiser, and its encoded pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import NonFinite
from latentrt.bundle.manifest import Manifest
from latentrt.runtime.checks import all_finite
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.denoiser import GuidedDenoiser
from latentrt.runtime.latents import from_vae
from latentrt.runtime.noise import Noise
from latentrt.runtime.opening import Opening
from latentrt.runtime.plan import Latent
from latentrt.runtime.prompts.schedule import Steps
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Calls, Evaluation, Model, Row
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.schedules import WHOLE, Part, Schedule
from latentrt.runtime.size import Size

_LOG_VARIANCE = (-30.0, 20.0)
"""Where diffusers' `DiagonalGaussianDistribution` keeps a logarithm of the variance."""


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What a VAE's encoder says of a picture: a normal distribution, float32 [c, h, w] each."""

    mean: Latent
    std: Latent
    manifest: Manifest

    def sample(self, noise: Noise) -> Latent:
        """A latent of the distribution as the U-Net has it, with the next numbers of the noise."""
        latent: Latent = self.std * noise.normal(self.mean.shape) + self.mean
        return from_vae(latent, self.manifest)


def unet_channels(manifest: Manifest) -> int:
    """Channels of the U-Net's `sample`: those of the latent, and what a task adds."""
    inputs = manifest.components["unet"].inputs
    channels = next(spec.dims[1] for spec in inputs if spec.name == "sample")
    assert isinstance(channels, int)
    return channels


class Kit:
    """The means of one bundle for one request, whose size and seed are resolved.

    `models` are the bundle's components; `schedules` gives the schedule of a part of a
    sampling; `opening` opens engines. `text_seconds`, `vae_seconds` and `notes` tell what was done.
    """

    def __init__(
        self,
        request: Request,
        latent_shape: tuple[int, int, int],
        manifest: Manifest,
        models: Mapping[str, Model],
        conditioner: Conditioner,
        schedules: Callable[[Sampling, Part], Schedule],
        opening: Opening,
    ) -> None:
        self.request = request
        self.latent_shape = latent_shape
        self.text_seconds = 0.0
        self.vae_seconds = 0.0
        self.notes: tuple[str, ...] = ()
        self._manifest = manifest
        self._models = models
        self._conditioner = conditioner
        self._schedules = schedules
        self._opening = opening
        self._calls = Calls({"unet": (1,), "vae": (1,)})

    def schedule(self, part: Part = WHOLE) -> Schedule:
        """The request's schedule, or the part of it at the lower levels."""
        return self._schedules(self.request.sampling, part)

    def denoiser(self, schedule: Schedule, steps: Steps | None = None) -> GuidedDenoiser:
        """The U-Net under the request's prompts over a schedule.

        `steps` are those that the prompts change within; None are those of the schedule.
        """
        sizes = {"batch": 1, "sequence": self._conditioner.length}
        for name, model in self._models.items():
            if name.startswith("text_encoder"):
                self._opening(model, sizes)
        begun = time.perf_counter()
        within = Steps(schedule.positions[-1].steps) if steps is None else steps
        found = self._calls.answer(self._conditioner(self.request, within))
        self.text_seconds += time.perf_counter() - begun
        self.notes += found.notes
        return GuidedDenoiser(
            self._models["unet"], found.prompts, found.negative, self.request.guidance
        )

    @property
    def size(self) -> Size:
        """The size of pictures, resolved."""
        assert self.request.size is not None
        return self.request.size

    @property
    def extra_channels(self) -> int:
        """How many channels the U-Net takes beside those of the latent."""
        return unet_channels(self._manifest) - self.latent_shape[0]

    def encode(self, images: NDArray[np.float32]) -> Posterior:
        """A picture, float32 [3, h, w] in [-1, 1], as the VAE's encoder has it."""
        _, height, width = images.shape
        sizes = {"batch": 1, "image_height": height, "image_width": width}
        self._opening.more(1)
        self._opening(self._models["vae_encoder"], sizes)
        begun = time.perf_counter()
        moments = self._calls.answer(self._encode(images))
        if not all_finite(moments):
            raise NonFinite("vae_encoder")
        self.vae_seconds += time.perf_counter() - begun
        mean, log_variance = np.split(moments, 2)
        std = np.exp(np.float32(0.5) * np.clip(log_variance, *_LOG_VARIANCE))
        return Posterior(mean, std.astype(np.float32, copy=False), self._manifest)

    def _encode(self, images: NDArray[np.float32]) -> Evaluation[NDArray[np.float32]]:
        (outputs,) = yield [Row(self._models["vae_encoder"], {"images": images})]
        return outputs["moments"]
