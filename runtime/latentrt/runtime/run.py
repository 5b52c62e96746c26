"""A request on its way to pictures: something to iterate, to cancel, and to ask for the result."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from latentrt.bundle.errors import Cancelled, NonFinite, only_latentrt_errors
from latentrt.engines.process import Home
from latentrt.runtime.checks import all_finite
from latentrt.runtime.image import to_picture
from latentrt.runtime.plan import Latent, Plan
from latentrt.runtime.result import Result, Seconds
from latentrt.runtime.rows import Batch
from latentrt.runtime.trajectory import Step, Trajectory

if TYPE_CHECKING:
    from PIL import Image


class Run(ABC):
    """Iterate for the steps, ask for the `result`; leaving the `with` block cancels."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    @abstractmethod
    def __iter__(self) -> Iterator[Step]: ...

    @abstractmethod
    def cancel(self) -> None:
        """End the run before its next step; `result` then raises `Cancelled`. From any thread."""

    @abstractmethod
    def result(self) -> Result:
        """The pictures, when they are finished.

        Raises `Cancelled` if the run was, `NonFinite` if a component returned NaN or infinity.
        """


class DirectRun(Run):
    """A run that is driven by whoever iterates it, one picture after the other."""

    def __init__(self, plan: Plan) -> None:
        self._home = Home("run")
        self._plan = replace(plan, engines=())
        self._engines = plan.engines  # held until the last step, so that none is freed
        self._begun = time.perf_counter()
        self._batches: dict[int, Batch] = {}
        self._unet_seconds = 0.0
        self._vae_seconds = 0.0
        self._cancelled = threading.Event()
        self._finished: list[tuple[Trajectory, Image.Image]] = []
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._steps = self._all_steps()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._steps.close()
        self._engines = ()  # of a run that took no step, too

    def __iter__(self) -> Iterator[Step]:
        self._home.check()
        return self._steps

    def cancel(self) -> None:
        """End the run before its next step; `result` then raises `Cancelled`."""
        self._cancelled.set()

    def result(self) -> Result:
        """Take the remaining steps and give the pictures."""
        self._home.check()
        for _ in self._steps:
            pass
        if self._result is None:
            raise self._error or Cancelled("the run was cancelled")
        return self._result

    @property
    def finished(self) -> int:
        """How many pictures are there already."""
        return len(self._finished)

    def so_far(self) -> Result:
        """The pictures that are finished, at least one, as the result has them."""
        compiling, encoding = self._plan.seconds
        seconds = Seconds(
            compile=compiling,
            text=encoding,
            unet=self._unet_seconds,
            vae=self._vae_seconds,
            total=compiling + encoding + time.perf_counter() - self._begun,
        )
        trajectories, images = zip(*self._finished, strict=True)
        return assemble(self._plan, list(trajectories), list(images), seconds)

    def _all_steps(self) -> Generator[Step, None, None]:
        try:
            with only_latentrt_errors():
                yield from self._pictures()
        except Exception as error:
            self._error = error
            raise
        finally:
            # Engines that nobody else uses may be freed now.
            self._batches.clear()
            self._engines = ()

    def _pictures(self) -> Generator[Step, None, None]:
        for image in range(self._plan.request.num_images):
            trajectory = Trajectory(self._plan, image, self._decode)
            yield from self._denoise(trajectory)
            self._check_cancelled()
            assert trajectory.latent is not None
            self._finished.append((trajectory, self._decode(trajectory.latent)))
        self._result = self.so_far()

    def _denoise(self, trajectory: Trajectory) -> Generator[Step, None, None]:
        while trajectory.rows:
            self._check_cancelled()
            begun = time.perf_counter()
            outputs = self._batch(len(trajectory.rows)).evaluate(trajectory.rows)
            self._unet_seconds += time.perf_counter() - begun
            yield trajectory.advance(list(outputs))

    def _batch(self, rows: int) -> Batch:
        if rows not in self._batches:
            self._batches[rows] = Batch(self._plan.unet(rows))
        return self._batches[rows]

    def _decode(self, latent: Latent) -> Image.Image:
        begun = time.perf_counter()
        picture = pictures(self._plan, latent[None])[0]
        self._vae_seconds += time.perf_counter() - begun
        return picture

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the run was cancelled")


def pictures(plan: Plan, latents: Latent) -> list[Image.Image]:
    """Latents [n, c, h, w], decoded; raises `NonFinite` if the VAE gave what is no colour."""
    pixels = plan.decode(latents)
    if not all_finite(pixels):
        raise NonFinite("vae_decoder")
    return [to_picture(each) for each in pixels]


def assemble(
    plan: Plan, finished: list[Trajectory], images: list[Image.Image], seconds: Seconds
) -> Result:
    """The result of a plan from its finished trajectories, one for each picture."""
    return Result(
        images=tuple(images),
        latents=np.stack([each.latent for each in finished if each.latent is not None]),
        noise=np.stack([each.start for each in finished]),
        request=plan.request,
        schedule=plan.schedule,
        model=plan.model,
        seconds=seconds,
        notes=(*plan.notes, *plan.conditioning.notes),
    )
