"""Many requests at once: their rows share U-Net calls, whatever step each of them is at."""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import Cancelled, DeadlineExceeded, InputError, QueueFull
from latentrt.runtime.batched_run import BatchedRun
from latentrt.runtime.checks import is_integer
from latentrt.runtime.plan import Plan
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Batch, Signature
from latentrt.runtime.run import pictures
from latentrt.runtime.waiting import WaitingPicture, WaitingRow, take_alike

if TYPE_CHECKING:
    from PIL import Image


class Planner(Protocol):
    """What a batcher needs of a pipeline."""

    def plan(self, request: Request, *, batches: Sequence[int], decodes: Sequence[int]) -> Plan:
        """Check a request, compile what it needs for these batch sizes, encode its prompts."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a batcher is, and what it has done so far.

    `pictures` are on their way, `rows` of them wait for a U-Net call; `calls` U-Net calls were made
    for `evaluated` rows, with `padded` places left over; `decodes` VAE calls were made.
    """

    pictures: int
    rows: int
    calls: int
    evaluated: int
    padded: int
    decodes: int


class Batcher:
    """Serves requests by step-level batching. Thread-safe.

    Rows are taken in the order in which they came to wait, as many as the largest compiled batch
    holds, and evaluated by the smallest batch that fits them; a picture whose rows are all answered
    takes its step and its next rows go to the end of the line. A picture is decoded by another
    thread. Closing it, or leaving its `with` block, first finishes what was submitted; after an
    exception, it cancels that.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        batch_sizes: Sequence[int] = (1, 2, 4, 8),
        decode_sizes: Sequence[int] = (1,),
        queue: int = 256,
    ) -> None:
        self._planner = planner
        self._sizes = _sizes("batch_sizes", batch_sizes)
        self._decodes = _sizes("decode_sizes", decode_sizes)
        if not is_integer(queue) or queue < 1:
            raise InputError("queue", "an integer of at least 1", queue)
        self._queue = queue
        self._pending: deque[WaitingRow] = deque()
        self._finished: deque[WaitingPicture] = deque()
        self._batches: dict[tuple[Signature, int], Batch] = {}
        self._live: set[WaitingPicture] = set()
        self._reserved: dict[object, int] = {}
        self._calls = self._evaluated = self._padded = self._decoded = 0
        self._closing = False
        # One lock for the lines and the counts; nothing else is called while it is held.
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._serve, args=(work,), name=f"latentrt-{name}", daemon=True)
            for name, work in (("steps", self._serve_steps), ("decodes", self._serve_decodes))
        ]
        # A thread inside an engine while the interpreter goes down would abort the process.
        atexit.register(self.close, cancel=True)
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)

    def submit(self, request: Request, *, deadline: float | None = None) -> BatchedRun:
        """Take a request in; its prompts are encoded here, and what is missing is compiled.

        `deadline` is in seconds from now. A run that is not finished then fails with
        `DeadlineExceeded`, at the latest when the U-Net call of that moment ends. Raises
        `InputError` for a request that does not fit, `QueueFull` if there is no room for its
        pictures, `Cancelled` if the batcher is closed.
        """
        until = _until(deadline)
        count = request.num_images
        if count > self._queue:
            raise InputError("num_images", f"at most {self._queue}, the queue", count)
        place = object()
        run: BatchedRun | None = None
        try:
            self._reserve(place, count)
            plan = self._planner.plan(request, batches=self._sizes, decodes=self._decodes)
            run = BatchedRun(plan, self._leave, until)
            self._admit(place, [WaitingPicture.of(run, image) for image in range(count)])
        except BaseException as error:  # an interrupt too must leave nothing behind
            if run is not None:
                run.fail(error)
            raise
        finally:
            self._reserved.pop(place, None)
            self._notify()
        return run

    @property
    def load(self) -> Load:
        """How busy it is."""
        with self._changed:
            return Load(
                self._on_their_way(),
                len(self._pending),
                self._calls,
                self._evaluated,
                self._padded,
                self._decoded,
            )

    def close(self, *, cancel: bool = False) -> None:
        """Take nothing more in, finish (or cancel) what is on its way, and end the threads."""
        with self._changed:
            self._closing = True
            runs = {picture.run for picture in self._live}
            self._changed.notify_all()
        atexit.unregister(self.close)
        if cancel:
            for run in runs:
                run.cancel()
        if threading.current_thread() not in self._threads:  # as in a future's callback
            for thread in self._threads:
                thread.join()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_their_way(self) -> int:
        return sum(self._reserved.values()) + len(self._live)

    def _reserve(self, place: object, count: int) -> None:
        """Keep places for pictures whose prompts are yet to be encoded."""
        with self._changed:
            if self._closing:
                raise Cancelled("the batcher is closed")
            on_their_way = self._on_their_way()
            if on_their_way + count > self._queue:
                raise QueueFull(
                    f"{on_their_way} pictures are on their way, and {count} more would be over "
                    f"{self._queue}"
                )
            self._reserved[place] = count

    def _admit(self, place: object, pictures: Sequence[WaitingPicture]) -> None:
        """Put pictures in line, in the places that were kept for them."""
        rows = [row for picture in pictures for row in picture.rows()]
        with self._changed:
            if self._closing:
                raise Cancelled("the batcher is closed")
            self._live.update(pictures)
            self._pending.extend(rows)
            self._reserved.pop(place, None)
            self._changed.notify_all()

    def _at_end(self) -> bool:
        return self._closing and not self._reserved and not self._live

    def _leave(self, run: BatchedRun) -> None:
        """Forget a run that ends: its pictures, and its rows that wait."""
        with self._changed:
            self._live = {picture for picture in self._live if picture.run is not run}
            self._pending = deque(row for row in self._pending if row.picture.run is not run)
            self._changed.notify_all()

    def _serve(self, work: Callable[[], None]) -> None:
        """A thread's life. What ends it before its time ends every run: none may wait for ever."""
        try:
            work()
        except BaseException as error:
            with self._changed:
                self._closing = True
                runs = {picture.run for picture in self._live}
                self._changed.notify_all()
            for run in runs:
                run.fail(error)
            raise

    # The thread that calls the U-Net.

    def _serve_steps(self) -> None:
        while True:
            taken = self._next_rows()
            if not taken:
                return
            self._evaluate(taken)
            for picture in dict.fromkeys(pending.picture for pending in taken):
                if picture.run.ended or picture.answered:
                    self._advance(picture)

    def _next_rows(self) -> list[WaitingRow]:
        """The rows of the next call, all of one signature; none at the end."""
        while True:
            with self._changed:
                late = self._late_runs()
                # A run may have ended while its next rows were put in line.
                self._pending = deque(row for row in self._pending if not row.picture.run.ended)
                if not late:
                    if self._pending:
                        return take_alike(self._pending, self._sizes[-1], _signature)
                    if self._at_end():
                        return []
                    self._changed.wait(self._patience())
            for run in late:
                run.fail(DeadlineExceeded("the run took longer than its deadline"))

    def _late_runs(self) -> set[BatchedRun]:
        """Runs whose deadline has passed; the lock is held, so that they are failed later."""
        runs = {picture.run for picture in self._live}
        return {run for run in runs if run.seconds_left is not None and run.seconds_left <= 0}

    def _patience(self) -> float | None:
        """Seconds until the first deadline: nothing else happens without a notice."""
        left = [picture.run.seconds_left for picture in self._live]
        finite = [seconds for seconds in left if seconds is not None]
        return min(max(min(finite), 0.0), threading.TIMEOUT_MAX) if finite else None

    def _evaluate(self, taken: Sequence[WaitingRow]) -> None:
        """Call the model once, and keep each row's output with its picture."""
        try:
            outputs = self._call(taken)
        except Exception as error:
            if len(taken) == 1:
                taken[0].picture.run.fail(error)
                return
            # One of them may be at fault: each alone, so that the others go on.
            for pending in taken:
                if not pending.picture.run.ended:
                    self._evaluate([pending])
            return
        for pending, output in zip(taken, outputs, strict=True):
            pending.answer(output)

    def _call(self, taken: Sequence[WaitingRow]) -> NDArray[np.float32]:
        picture = taken[0].picture
        size = next(size for size in self._sizes if size >= len(taken))
        key = picture.signature, size
        if key not in self._batches:
            self._batches[key] = Batch(picture.run.plan.unet(size))
        outputs = self._batches[key].evaluate([pending.row for pending in taken])
        with self._changed:
            self._calls += 1
            self._evaluated += len(taken)
            self._padded += size - len(taken)
        return outputs

    def _advance(self, picture: WaitingPicture) -> None:
        """Take a picture's step, then put its next rows, or its latent, in line."""
        if not picture.run.ended:
            try:
                outputs = [output for output in picture.outputs if output is not None]
                picture.run.tell(picture.trajectory.advance(outputs))
            except BaseException as error:  # a request's own: what is not finite, its functions
                picture.run.fail(error)
        with self._changed:
            if picture.run.ended:
                self._live.discard(picture)
            elif picture.trajectory.rows:
                self._pending.extend(picture.rows())
            else:
                self._finished.append(picture)
            self._changed.notify_all()

    # The thread that calls the VAE.

    def _serve_decodes(self) -> None:
        while True:
            taken = self._next_latents()
            if not taken:
                return
            self._decode([picture for picture in taken if not picture.run.ended])
            with self._changed:
                self._live.difference_update(taken)
                self._changed.notify_all()

    def _next_latents(self) -> list[WaitingPicture]:
        """Pictures of one size to decode together; none at the end."""
        with self._changed:
            while not self._finished:
                if self._at_end():
                    return []
                self._changed.wait()
            return take_alike(self._finished, self._decodes[-1], _latent_shape)

    def _decode(self, taken: Sequence[WaitingPicture]) -> None:
        try:
            images = self._decoded_images(taken)
        except Exception as error:
            if len(taken) == 1:
                taken[0].run.fail(error)
                return
            for picture in taken:
                self._decode([picture])
            return
        for picture, image in zip(taken, images, strict=True):
            try:
                picture.run.finish(picture.trajectory, image)
            except BaseException as error:
                picture.run.fail(error)

    def _decoded_images(self, wanted: Sequence[WaitingPicture]) -> list[Image.Image]:
        if not wanted:
            return []
        size = next(size for size in self._decodes if size >= len(wanted))
        latents = [picture.latent for picture in wanted]
        padded = np.stack(latents + latents[:1] * (size - len(wanted)))
        found = pictures(wanted[0].run.plan, padded)[: len(wanted)]
        with self._changed:
            self._decoded += 1
        return found


def _signature(row: WaitingRow) -> object:
    return row.picture.signature


def _latent_shape(picture: WaitingPicture) -> object:
    return picture.run.plan.latent_shape


def _until(deadline: float | None) -> float | None:
    """The moment of a deadline; None for one that never comes."""
    if deadline is None or deadline == math.inf:
        return None
    if not deadline > 0:
        raise InputError("deadline", "a number of seconds above 0", deadline)
    return time.perf_counter() + deadline


def _sizes(field: str, sizes: Sequence[int]) -> tuple[int, ...]:
    if not sizes or not all(is_integer(n) and n >= 1 for n in sizes):
        raise InputError(field, "integers of at least 1", sizes)
    return tuple(sorted(set(sizes)))
