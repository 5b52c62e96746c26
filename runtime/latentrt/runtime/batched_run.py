"""A run that a batcher drives, among others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import replace
from typing import TYPE_CHECKING

from latentrt.bundle.errors import Cancelled, LatentrtError, as_latentrt
from latentrt.engines.process import Home
from latentrt.runtime.picture import Picture, Step
from latentrt.runtime.plan import Latent, Plan
from latentrt.runtime.result import Result, Seconds
from latentrt.runtime.run import Run, assemble, decoded_picture, picture_of

if TYPE_CHECKING:
    from PIL import Image


class RunFuture(Future[Result]):
    """The future of a run. Waiting raises where it would never end.

    That is in a forked process, and in a callback on the thread that `serves` the run.
    """

    def __init__(self, home: Home, serves: Callable[[], bool]) -> None:
        self._home = home
        self._serves = serves
        super().__init__()

    def result(self, timeout: float | None = None) -> Result:
        """As any future's; raises `Closed` in a process that did not open the batcher."""
        self.check_waiting()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As any future's; raises `Closed` in a process that did not open the batcher."""
        self.check_waiting()
        return super().exception(timeout)

    def cancel(self) -> bool:
        """As any future's; does nothing in a process that did not open the batcher."""
        return self._home.here and super().cancel()

    def check_waiting(self) -> None:
        """Raise `Closed` or `LatentrtError` where waiting for the run would never end."""
        self._home.check()
        if not self.done() and self._serves():
            raise LatentrtError("a callback of a batcher cannot wait for its runs: use a thread")


class BatchedRun(Run):
    """What `Batcher.submit` gives. Its steps go on whether or not somebody iterates.

    Iterating gives the newest step of each picture that was not seen yet, so that a slow reader
    neither holds up the batcher nor fills the memory. `future` is for `asyncio.wrap_future`:
    cancelling it cancels the run. In its result's `seconds`, `unet` is the time from submission to
    the last step: calls are shared.
    """

    def __init__(
        self,
        plan: Plan,
        leave: Callable[[BatchedRun], None],
        until: float | None = None,
        serves: Callable[[], bool] = lambda: False,
    ) -> None:
        self._home = Home("run")
        self.plan = replace(plan, engines=())
        self._engines = plan.engines  # held until the run ends, so that none is freed
        self.future: RunFuture = RunFuture(self._home, serves)
        self._leave = leave
        self._begun = time.perf_counter()
        self._until = until
        self._done: list[tuple[Picture, Image.Image]] = []
        self._stepped = self._begun
        self._newest: dict[int, Step] = {}
        self._told = threading.Condition()
        self.future.add_done_callback(self._on_end)

    def __iter__(self) -> Iterator[Step]:
        seen: dict[int, Step] = {}

        def unseen() -> list[Step]:
            return [step for step in self._newest.values() if seen.get(step.image) is not step]

        while True:
            self.future.check_waiting()
            with self._told:
                self._told.wait_for(lambda: self.ended or unseen())
                steps = unseen()
            if not steps:
                break
            for step in steps:
                seen[step.image] = step
                yield step
        self.result()

    def cancel(self) -> None:
        """End the run; no call that is yet to be put together has its rows.

        `result` raises `Cancelled` at once. In a forked process it does nothing.
        """
        if not self._home.here:
            return
        self.fail(Cancelled("the run was cancelled"))

    def result(self) -> Result:
        """The pictures, when they are finished.

        Raises `Cancelled` or `DeadlineExceeded` if the run was ended, `NonFinite` if a component
        returned NaN or infinity.
        """
        try:
            return self.future.result()
        except CancelledError:
            raise Cancelled("the run was cancelled") from None

    # For the batcher.

    @property
    def ended(self) -> bool:
        """Whether it has its result, or never will."""
        return self.future.done()

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the deadline, at most 0 after it; None without one."""
        return None if self._until is None else self._until - time.perf_counter()

    def tell(self, step: Step) -> None:
        """One of its pictures has taken a step."""
        self._stepped = time.perf_counter()
        with self._told:
            self._newest.pop(step.image, None)  # the newest is the last
            self._newest[step.image] = step
            self._told.notify_all()

    def finish(self, picture: Picture) -> None:
        """One of its pictures is decoded; with the last, the run is finished."""
        self._done.append((picture, picture_of(picture)))
        if len(self._done) < self.plan.request.num_images:
            return
        now = time.perf_counter()
        prepared = self.plan.seconds
        seconds = Seconds(
            compile=prepared.compile,
            text=prepared.text,
            unet=self._stepped - self._begun,
            vae=now - self._stepped + prepared.vae,
            total=prepared.compile + prepared.text + prepared.vae + now - self._begun,
        )
        result = assemble(self.plan, self._done, seconds)
        self._settle(lambda: self.future.set_result(result))

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended already."""
        told = as_latentrt(error)
        self._settle(lambda: self.future.set_exception(told))

    def preview(self, latent: Latent) -> Image.Image:
        """One latent as a picture."""
        return decoded_picture(self.plan, latent)

    def _settle(self, settle: Callable[[], None]) -> None:
        # Its place is given back first: who waits for the result may submit the next at once.
        self._leave(self)
        # It may have been ended by somebody else a moment before.
        with contextlib.suppress(InvalidStateError):
            settle()

    def _on_end(self, future: Future[Result]) -> None:
        if future.cancelled():
            future.set_running_or_notify_cancel()  # else `concurrent.futures.wait` waits for ever
        self._done.clear()
        self._engines = ()  # they may be freed now
        self._leave(self)
        with self._told:
            self._told.notify_all()
