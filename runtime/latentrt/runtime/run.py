"""One request on its way to pictures: a loop that yields after every step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import Cancelled, LatentrtError, NonFinite
from latentrt.engines.engine import Engine
from latentrt.runtime.guidance import guide
from latentrt.runtime.image import to_picture
from latentrt.runtime.noise import TorchNoise
from latentrt.runtime.prediction import denoised, model_input
from latentrt.runtime.request import Guidance, Request
from latentrt.runtime.result import Result, Seconds
from latentrt.runtime.samplers import Denoise, sample
from latentrt.runtime.schedules import Schedule

if TYPE_CHECKING:
    from PIL import Image

Latent = NDArray[np.float32]


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


class Decode(Protocol):
    """Latents [n, c, h, w] as the model has them to pixels [n, 3, H, W] in [-1, 1]."""

    def __call__(self, latents: Latent) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything a run needs, resolved: `request` has a seed and a size.

    `text` is [rows, n, width], the negative prompt's row first where guidance is active; `seconds`
    is what compiling and encoding the prompts took.
    """

    request: Request
    schedule: Schedule
    text: NDArray[np.float32]
    unet: Engine
    decode: Decode
    latent_shape: tuple[int, int, int]
    model: str
    notes: tuple[str, ...]
    seconds: tuple[float, float]


class Run:
    """Iterate for the steps, ask for the `result`; leaving the `with` block cancels.

    A run is driven by whoever iterates it; `cancel` may be called from any thread.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._begun = time.perf_counter()
        self._unet_seconds = 0.0
        self._vae_seconds = 0.0
        self._cancelled = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._steps = self._all_steps()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()
        self._steps.close()

    def __iter__(self) -> Iterator[Step]:
        return self._steps

    def cancel(self) -> None:
        """End the run before its next step; `result` then raises `Cancelled`."""
        self._cancelled.set()

    def result(self) -> Result:
        """Take the remaining steps and give the pictures.

        Raises `Cancelled` if the run was, `NonFinite` if a component returned NaN or infinity.
        """
        for _ in self._steps:
            pass
        if self._result is None:
            raise self._error or Cancelled("the run was cancelled")
        return self._result

    def _all_steps(self) -> Generator[Step, None, None]:
        try:
            yield from self._pictures()
        except LatentrtError as error:
            self._error = error
            raise

    def _pictures(self) -> Generator[Step, None, None]:
        request = self._plan.request
        latents: list[Latent] = []
        starts: list[Latent] = []
        images: list[Image.Image] = []
        for image in range(request.num_images):
            noise, start = self._start(image)
            starts.append(start)
            latent = yield from self._denoise(image, noise, start)
            latents.append(latent)
            self._check_cancelled()
            images.append(self._decode(latent))
        compiling, encoding = self._plan.seconds
        self._result = Result(
            images=tuple(images),
            latents=np.stack(latents),
            noise=np.stack(starts),
            request=request,
            sampler=self._plan.schedule.sampler,
            model=self._plan.model,
            seconds=Seconds(
                compile=compiling,
                text=encoding,
                unet=self._unet_seconds,
                vae=self._vae_seconds,
                total=compiling + encoding + time.perf_counter() - self._begun,
            ),
            notes=self._plan.notes,
        )

    def _start(self, image: int) -> tuple[TorchNoise, Latent]:
        request = self._plan.request
        assert request.seed is not None
        noise = TorchNoise(request.seed + image)
        if request.latents is not None:
            return noise, request.latents[image]
        return noise, noise.normal(self._plan.latent_shape)

    def _denoise(
        self, image: int, noise: TorchNoise, start: Latent
    ) -> Generator[Step, None, Latent]:
        plan = self._plan
        schedule = plan.schedule
        rows = Rows(plan.unet, plan.text)
        sampler = sample(
            start * np.float32(schedule.init_scale),
            schedule,
            noise=noise,
            eta=plan.request.sampling.eta,
        )
        index = 0
        try:
            asked = next(sampler)
            while True:
                self._check_cancelled()
                begun = time.perf_counter()
                outputs = rows.evaluate(asked)
                self._unet_seconds += time.perf_counter() - begun
                estimate = self._estimate(asked, outputs, plan.request.guidance, index)
                yield Step(
                    index,
                    len(schedule.evaluations),
                    image,
                    asked.sigma,
                    asked.timestep,
                    estimate,
                    self._decode,
                )
                index += 1
                asked = sampler.send((asked.latent, estimate))
        except StopIteration as finished:
            return finished.value * np.float32(schedule.final_scale)

    def _estimate(
        self, asked: Denoise, outputs: NDArray[np.float32], guidance: Guidance, index: int
    ) -> Latent:
        output = outputs[0] if len(outputs) == 1 else guide(outputs[0], outputs[1], guidance)
        if not np.isfinite(output).all():
            raise NonFinite("unet", index)
        return denoised(asked.latent, output, asked.sigma, self._plan.schedule.prediction_type)

    def _decode(self, latent: Latent) -> Image.Image:
        begun = time.perf_counter()
        pixels = self._plan.decode(latent[None])[0]
        self._vae_seconds += time.perf_counter() - begun
        if not np.isfinite(pixels).all():
            raise NonFinite("vae_decoder")
        return to_picture(pixels)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the run was cancelled")


class Rows:
    """The U-Net's arrays for one picture: what does not change between steps is made once."""

    def __init__(self, unet: Engine, text: NDArray[np.float32]) -> None:
        self._unet = unet
        self._specs = {spec.name: spec for spec in unet.inputs}
        self._text = text.astype(self._specs["encoder_hidden_states"].dtype)

    def evaluate(self, asked: Denoise) -> NDArray[np.float32]:
        """Model outputs [rows, c, h, w], one a row of the text."""
        count = len(self._text)
        scaled = model_input(asked.latent, asked.sigma)
        sample = np.empty((count, *scaled.shape), self._specs["sample"].dtype)
        sample[:] = scaled
        outputs = self._unet(
            {
                "sample": sample,
                "timestep": np.full(count, asked.timestep, self._specs["timestep"].dtype),
                "encoder_hidden_states": self._text,
            }
        )
        return outputs["model_output"].astype(np.float32, copy=False)
