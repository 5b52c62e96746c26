"""Every job of a service: a bounded queue, the pictures in progress, and what was drawn."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from latentrt.bundle.errors import Cancelled, DeadlineExceeded, QueueFull
from latentrt.serving.job import Job
from latentrt.serving.limits import Limits
from latentrt.serving.order import Order
from latentrt.serving.painter import Drawn, Painter, Told
from latentrt.serving.problem import Problem, Refused

_LOGGER: Final = logging.getLogger("latentrt.serving")
_REMEMBERED: Final = 10_000
"""Names of jobs whose pictures are gone that are still told from unknown ones."""


class Jobs:
    """Takes orders in, first come, first served. It belongs to an event loop.

    At most `limits.drawing` pictures are drawn at once, and `limits.queued` jobs wait.
    `on_end` is called with each job that is over.
    """

    def __init__(
        self, painter: Painter, limits: Limits, on_end: Callable[[Job], None] = lambda job: None
    ) -> None:
        self._painter = painter
        self._limits = limits
        self._on_end = on_end
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._over: OrderedDict[str, int] = OrderedDict()  # their sizes, the first to end first
        self._kept = 0
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._drawing: set[Job] = set()
        self._threads = ThreadPoolExecutor(limits.drawing, thread_name_prefix="latentrt-job")
        self._idle = asyncio.Event()
        self._idle.set()
        self.closing = False

    def __iter__(self) -> Iterator[Job]:
        """All jobs that are known, the oldest first."""
        self._forget()
        return iter(tuple(self._jobs.values()))

    @property
    def queued(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many jobs are drawn."""
        return len(self._drawing)

    def submit(self, order: Order, client: str, api: str, name: str | None = None) -> Job:
        """Take an order in. A name of the client's that is known gives that job, and draws nothing.

        Raises `QueueFull`, or `Refused` for a name of another's job and when the service ends.
        """
        if name is not None and name in self._jobs:
            known = self._jobs[name]
            if (known.client, known.api) != (client, api):
                raise Refused(Problem(409, f"id: {name} is another job", "id", "taken"))
            return known
        if self.closing:
            text = "the service ends; ask another"
            raise Refused(Problem(503, text, code="closing", retry_after=5))
        if len(self._waiting) >= self._limits.queued:
            raise QueueFull(f"queue full: {self.queued} of {self._limits.queued} places in use")
        self._forget()
        job = Job(name or uuid.uuid4().hex, order, client, api)
        self._jobs[job.id] = job
        self._gone.pop(job.id, None)
        self._waiting.append(job)
        self._idle.clear()
        if order.deadline is not None:
            late = DeadlineExceeded(f"the job took longer than {order.deadline:g} seconds")
            loop = asyncio.get_running_loop()
            job.timer = loop.call_later(order.deadline, self._fail, job, late)
        self._begin_next()
        return job

    def get(self, name: str) -> Job:
        """A job; raises `Refused`: 404 for an unknown name, 410 for one that was forgotten."""
        self._forget()
        if name in self._jobs:
            return self._jobs[name]
        if name in self._gone:
            raise Refused(Problem(410, f"job {name} was forgotten after its time", "id", "gone"))
        raise Refused(Problem(404, f"there is no job {name}", "id", "unknown_job"))

    def position(self, job: Job) -> int | None:
        """The place of a job in the queue, from 1; None where it does not wait."""
        return self._waiting.index(job) + 1 if job in self._waiting else None

    def cancel(self, job: Job) -> None:
        """End a job: no call that is yet to be put together has its rows. Twice does nothing."""
        self._fail(job, Cancelled("the job was cancelled"))

    def forget(self, job: Job) -> None:
        """Keep nothing of a job that is over: its client has the pictures, or has gone."""
        if job.over and self._jobs.get(job.id) is job:
            self._drop(job.id)

    async def drain(self, seconds: float) -> None:
        """Take nothing more in, and finish what there is; cancel what takes longer."""
        self.closing = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            self.cancel_all()

    def cancel_all(self) -> None:
        """Take nothing more in, and cancel everything."""
        self.closing = True
        for job in list(self._jobs.values()):
            self.cancel(job)

    def close(self) -> None:
        """End the threads, after `cancel_all`; it blocks."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _begin_next(self) -> None:
        """Draw the jobs that there is room for."""
        while self._waiting:
            taken = sum(each.order.request.num_images for each in self._drawing)
            first = self._waiting[0]
            if taken and taken + first.order.request.num_images > self._limits.drawing:
                return
            job = self._waiting.popleft()
            self._drawing.add(job)
            self._draw(job)

    def _draw(self, job: Job) -> None:
        loop = asyncio.get_running_loop()

        def soon(call: Callable[..., None], *values: object) -> None:
            loop.call_soon_threadsafe(call, *values)

        def begun() -> None:
            soon(job.begin)

        def tell(told: Told) -> None:
            soon(job.step, told)

        future = loop.run_in_executor(
            self._threads, self._painter.draw, job.order, begun, tell, job.stop
        )
        future.add_done_callback(partial(self._drawn, job))

    def _drawn(self, job: Job, future: asyncio.Future[Drawn]) -> None:
        self._drawing.discard(job)
        if future.cancelled():
            self._fail(job, Cancelled("the job was cancelled"))
        elif (error := future.exception()) is not None:
            self._fail(job, error)
        elif not job.over:
            job.finish(future.result())
            self._end(job)
        self._begin_next()
        if not self._waiting and not self._drawing:
            self._idle.set()

    def _fail(self, job: Job, error: BaseException) -> None:
        if job.over:
            return
        if job in self._waiting:
            self._waiting.remove(job)
        job.fail(error)
        if job.problem is not None and job.problem.status == 500:
            _LOGGER.error("job %s failed", job.id, exc_info=error)
        self._end(job)
        if not self._waiting and not self._drawing:
            self._idle.set()

    def _end(self, job: Job) -> None:
        self._over[job.id] = size = job.size
        self._kept += size
        self._on_end(job)

    def _forget(self) -> None:
        """Forget what was drawn too long ago, or is too much, the first that ended first."""
        while self._over:
            name = next(iter(self._over))
            old = time.time() - self._jobs[name].ended > self._limits.kept_for
            if not old and self._kept <= self._limits.kept:
                return
            self._drop(name)
            self._gone[name] = None
            while len(self._gone) > _REMEMBERED:
                self._gone.popitem(last=False)

    def _drop(self, name: str) -> None:
        del self._jobs[name]
        self._kept -= self._over.pop(name)
