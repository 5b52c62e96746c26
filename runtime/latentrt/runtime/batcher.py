"""Many requests at once: their rows share U-Net calls, whatever step each of them is at."""

from __future__ import annotations

import atexit
import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from latentrt.bundle.checks import integer, items, shown
from latentrt.bundle.errors import InputError, only_latentrt_errors
from latentrt.engines.process import Home
from latentrt.runtime.batched_run import BatchedRun
from latentrt.runtime.checks import number
from latentrt.runtime.lane import Lane
from latentrt.runtime.line import Line
from latentrt.runtime.picture import Picture
from latentrt.runtime.plan import Plan
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Calls


class Planner(Protocol):
    """What a batcher needs of a pipeline."""

    def plan(self, request: Request, *, batches: Sequence[int], decodes: Sequence[int]) -> Plan:
        """Check a request, compile what it needs for these batch sizes, encode its prompts."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a batcher is, and what it has done so far.

    `pictures` are in progress; `rows` of them wait for a U-Net call, `latents` for a VAE call;
    `calls` U-Net calls were made for `evaluated` rows, with `padded` places left over; `decodes`
    VAE calls were made, those of previews not counted.
    """

    pictures: int
    rows: int
    latents: int
    calls: int
    evaluated: int
    padded: int
    decodes: int


class Batcher:
    """Serves requests by step-level batching. Thread-safe.

    Rows wait in line. The first row and those of its model and shape behind it share a call, up to
    the largest compiled batch. The smallest batch that fits them is called. A picture
    whose rows are all answered takes its step, and its next rows go to the end of the line. VAEs
    have a line and a thread of their own. Closing it, or leaving its `with` block, first finishes
    what was submitted; after an exception, it cancels that. One that is left without being closed
    finishes what was submitted, too, and is collected.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        batch_sizes: Sequence[int] = (1, 2, 4, 8),
        decode_sizes: Sequence[int] = (1,),
        queue: int = 256,
    ) -> None:
        if not hasattr(planner, "plan"):
            raise InputError("planner", "a Pipeline", shown(planner))
        self._home = Home("batcher")
        self._planner = planner
        self._sizes = _sizes("batch_sizes", batch_sizes)
        self._decode_sizes = _sizes("decode_sizes", decode_sizes)
        self._line = Line(integer("queue", "an integer of at least 1", queue, 1))
        self._sizes_of = {"unet": self._sizes, "vae": self._decode_sizes}
        self._lanes = {
            kind: Lane(partial(self._line.take, kind), self._line.put_back, Calls(self._sizes_of))
            for kind in self._sizes_of
        }
        # Its threads do not hold it, so that an unclosed one is collected.
        works = {kind: lane.serve for kind, lane in self._lanes.items()}
        self._service = _Service(self._home, self._line, works)
        self._collected = weakref.finalize(self, self._service.close_later)
        self._collected.atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)

    def submit(
        self,
        request: Request,
        *,
        deadline: float | None = None,
        pipeline: Planner | None = None,
    ) -> BatchedRun:
        """Take a request in; its prompts are encoded here, and what is missing is compiled.

        `pipeline` draws it, by default the batcher's own: rows of two models never share a call.
        `deadline` is in seconds from now. A run that is not finished then fails with
        `DeadlineExceeded`, at the latest when the U-Net call of that moment ends. Raises
        `InputError` for a request that does not fit, and `QueueFull` if there is no room for its
        pictures. Raises `Closed` if the batcher is closed, or another process opened it.
        """
        self._home.check()
        if not isinstance(request, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                "request", "a Request, such as Request('a red circle')", shown(request)
            )
        until = _until(deadline)
        count = request.num_images
        place = object()
        run: BatchedRun | None = None
        try:
            self._line.reserve(place, count)
            with only_latentrt_errors():
                plan = (pipeline or self._planner).plan(
                    request, batches=self._sizes, decodes=self._decode_sizes
                )
                # A preview too is decoded at a size that is compiled.
                plan = replace(plan, batches=self._sizes_of)
                run = BatchedRun(plan, self._line.leave, until, self._service.serves_here)
                pictures = [Picture(run, image) for image in range(count)]
                self._line.admit(place, run, pictures)
        except BaseException as error:  # an interrupt too must leave nothing behind
            if run is not None:
                run.fail(error)
            raise
        finally:
            self._line.release(place)
        return run

    @property
    def load(self) -> Load:
        """How busy it is."""
        self._home.check()
        pictures, rows, latents = self._line.lengths
        count = self._lanes["unet"].count
        return Load(
            pictures=pictures,
            rows=rows,
            latents=latents,
            calls=count.calls,
            evaluated=count.evaluated,
            padded=count.padded,
            decodes=self._lanes["vae"].count.calls,
        )

    def close(self, *, cancel: bool = False) -> None:
        """Take nothing more in, finish (or cancel) what is in progress, and end the threads.

        In a forked process, which has none of them, it does nothing.
        """
        self._collected.detach()
        self._service.close(cancel=cancel)


class _Service:
    """A batcher's threads, one for each work, which end when their line is at its end."""

    def __init__(self, home: Home, line: Line, works: Mapping[str, Callable[[], None]]) -> None:
        self._home = home
        self._line = line
        self._threads = [
            threading.Thread(target=self._serve, args=(work,), name=f"latentrt-{name}", daemon=True)
            for name, work in works.items()
        ]
        # A thread inside an engine while the interpreter goes down would abort the process.
        atexit.register(self.close, cancel=True)
        for thread in self._threads:
            thread.start()

    def close(self, *, cancel: bool = False) -> None:
        """Take nothing more in, finish (or cancel) what is in progress, and end the threads."""
        if not self._home.here:
            return
        runs = self._line.close()
        atexit.unregister(self.close)
        if cancel:
            for run in runs:
                run.cancel()
        if not self.serves_here():
            for thread in self._threads:
                thread.join()

    def serves_here(self) -> bool:
        """Whether this is one of its threads, as in a future's callback."""
        return threading.current_thread() in self._threads

    def close_later(self) -> None:
        """Close from where nothing may be waited for: the garbage collector may run anywhere.

        The thread that it interrupts may hold a lock that a thread here waits for.
        """
        if self._home.here:
            threading.Thread(target=self.close, name="latentrt-close", daemon=True).start()

    def _serve(self, work: Callable[[], None]) -> None:
        """A thread's life. What ends it before its time ends every run: none may wait for ever."""
        try:
            work()
        except BaseException as error:
            for run in self._line.close():
                run.fail(error)
            raise


def _until(deadline: object) -> float | None:
    """The moment of a deadline; None for one that never comes."""
    if deadline is None:
        return None
    expected = "a number of seconds above 0, or None"
    seconds = number("deadline", expected, deadline, 0.0)
    if seconds == 0.0:
        raise InputError("deadline", expected, seconds)
    return None if seconds == math.inf else time.perf_counter() + seconds


def _sizes(field: str, sizes: object) -> tuple[int, ...]:
    """Compiled batch sizes, ascending."""
    expected = "integers of at least 1"
    given = items(sizes)
    if not given:
        raise InputError(field, expected, shown(sizes))
    return tuple(sorted({integer(field, expected, size, 1) for size in given}))
