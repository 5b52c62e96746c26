"""A request in progress: iterate over its steps, cancel it, or ask for its result."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from latentrt.bundle.errors import Cancelled, only_latentrt_errors
from latentrt.engines.process import Home
from latentrt.runtime.image import to_picture
from latentrt.runtime.lane import Lane, WaitingRow, take_alike
from latentrt.runtime.picture import Picture, Step
from latentrt.runtime.plan import Latent, Plan
from latentrt.runtime.result import Result, Seconds
from latentrt.runtime.rows import Calls

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
    """A run that its caller drives, as many pictures at a time as its plan says."""

    def __init__(self, plan: Plan) -> None:
        self._home = Home("run")
        self.plan = replace(plan, engines=())
        self._engines = plan.engines  # held until the last step, so that none is freed
        self._begun = time.perf_counter()
        self._cancelled = threading.Event()
        self._told: list[Step] = []
        self._finished: list[tuple[Picture, Image.Image]] = []
        self._stepping, self._decoding = 0.0, 0.0
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
        prepared = self.plan.seconds
        preparing = prepared.compile + prepared.text + prepared.vae
        seconds = Seconds(
            compile=prepared.compile,
            text=prepared.text,
            unet=self._stepping,
            vae=self._decoding + prepared.vae,
            total=preparing + time.perf_counter() - self._begun,
        )
        return assemble(self.plan, self._finished, seconds)

    # For who drives its pictures.

    @property
    def ended(self) -> bool:
        """Never: a run that fails raises at once."""
        return False

    def tell(self, step: Step) -> None:
        """One of its pictures has taken a step."""
        self._told.append(step)

    def finish(self, picture: Picture) -> None:
        """One of its pictures is decoded."""
        self._finished.append((picture, picture_of(picture)))

    def fail(self, error: BaseException) -> None:
        """Raise it."""
        raise error

    def preview(self, latent: Latent) -> Image.Image:
        """One latent as a picture."""
        return decoded_picture(self.plan, latent)

    def _all_steps(self) -> Generator[Step, None, None]:
        try:
            with only_latentrt_errors():
                yield from self._pictures()
        except Exception as error:
            self._error = error
            raise
        finally:
            self._engines = ()  # unused ones may be freed now

    def _pictures(self) -> Generator[Step, None, None]:
        count, most = self.plan.request.num_images, self.plan.together
        for first in range(0, count, most):
            yield from self._drawn(range(first, min(first + most, count)))
        self._result = self.so_far()

    def _drawn(self, images: Sequence[int]) -> Generator[Step, None, None]:
        """The steps of pictures that share calls."""
        waiting: deque[WaitingRow] = deque()

        def put_back(picture: Picture) -> None:
            waiting.extend(WaitingRow.of(picture))

        for image in images:
            put_back(Picture(self, image))
        lane = Lane(partial(take_alike, waiting), put_back, Calls(self.plan.batches))
        while waiting:
            self._check_cancelled()
            begun, kind = time.perf_counter(), waiting[0].row.model.kind
            lane.turn()
            seconds = time.perf_counter() - begun
            if kind == "vae":
                self._decoding += seconds
            else:
                self._stepping += seconds
            told, self._told = self._told, []
            yield from told

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the run was cancelled")


def picture_of(picture: Picture) -> Image.Image:
    """The image of a picture that is decoded."""
    assert picture.pixels is not None
    return to_picture(picture.pixels, picture.run.plan.finish)


def decoded_picture(plan: Plan, latent: Latent) -> Image.Image:
    """One latent [c, h, w] as a picture; raises `NonFinite` if the VAE gave what is no colour."""
    decoded = Calls(plan.batches).answer(plan.decode(latent))
    return to_picture(decoded.pixels, plan.finish)


def assemble(
    plan: Plan, finished: Sequence[tuple[Picture, Image.Image]], seconds: Seconds
) -> Result:
    """The result of a plan from its finished pictures."""
    ordered = sorted(finished, key=lambda each: each[0].image)
    return Result(
        images=tuple(image for _, image in ordered),
        latents=np.stack([each.latent for each, _ in ordered if each.latent is not None]),
        noise=np.stack([each.start for each, _ in ordered]),
        request=plan.request,
        schedule=plan.schedule,
        model=plan.model,
        seconds=seconds,
        notes=tuple(dict.fromkeys([*plan.notes, *(n for each, _ in ordered for n in each.notes)])),
    )
