"""A job: one order on its way, and the events that are told of it."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from latentrt.bundle.errors import Cancelled
from latentrt.serving.order import Order
from latentrt.serving.painter import Drawn, Stop, Told
from latentrt.serving.problem import Problem, problem_of

State = Literal["queued", "running", "done", "error", "cancelled"]
OVER: Final[frozenset[State]] = frozenset({"done", "error", "cancelled"})


@dataclass(frozen=True, slots=True)
class Event:
    """What happened: `number` counts from 1 within a job. `preview` is a JPEG."""

    number: int
    kind: str
    data: Mapping[str, Any]
    preview: bytes | None = None


class Job:
    """One order. It belongs to an event loop: nothing here is for other threads.

    `client` is whose it is. `api` is the API that it came by. `created` and `ended` are in seconds
    of the system's clock. `fetched` says that somebody has its pictures.
    `timer` ends it at its deadline. `context` is that of the request that submitted it.
    """

    def __init__(self, name: str, order: Order, client: str, api: str) -> None:
        self.id = name
        self.order = order
        self.client = client
        self.api = api
        self.created = time.time()
        self.begun = 0.0
        self.ended = 0.0
        self.state: State = "queued"
        self.stop = Stop()
        self.drawn: Drawn | None = None
        self.problem: Problem | None = None
        self.error: BaseException | None = None
        self.preview: bytes | None = None
        self.newest: Told | None = None
        self.fetched = False
        self.timer: asyncio.TimerHandle | None = None
        self.context = contextvars.copy_context()
        self._done: dict[int, int] = {}
        self._events: list[Event] = []
        self._changed = asyncio.Event()
        self.tell("queued", {})

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in OVER

    @property
    def progress(self) -> float:
        """The share of its steps that are behind it, from 0 to 1."""
        if self.state == "done":
            return 1.0
        if self.newest is None:
            return 0.0
        return sum(self._done.values()) / (self.newest.total * self.order.request.num_images)

    @property
    def size(self) -> int:
        """Bytes of its files, and of the pictures that it was made from."""
        request = self.order.request
        given = [getattr(request.task, name) for name in request.task.pictures]
        given += [each.image for each in request.controls]
        files = () if self.drawn is None else self.drawn.files
        return sum(map(len, files)) + sum(each.nbytes for each in given)

    def begin(self) -> None:
        """Its pictures are in line."""
        if not self.over:
            self.state, self.begun = "running", time.time()
            self.tell("started", {})

    def step(self, told: Told) -> None:
        """One of its pictures has taken a step."""
        if self.over:
            return
        self.newest = told
        self._done[told.image] = told.index + 1
        data = {"image": told.image, "index": told.index, "total": told.total}
        self.preview = told.preview or self.preview
        self.tell("step", data | ({"partial": True} if told.partial else {}), told.preview)

    def finish(self, drawn: Drawn) -> None:
        """Its pictures are drawn."""
        if self.over:
            return
        self.drawn = drawn
        for index, request in enumerate(drawn.requests):
            self.tell("image", {"index": index, "seed": request.seed})
        self._end("done", {"notes": list(drawn.notes), "seconds": drawn.seconds})

    def fail(self, error: BaseException) -> None:
        """It ends with an error; one that is over stays as it is."""
        if self.over:
            return
        self.error, self.problem = error, problem_of(error)
        state: State = "cancelled" if isinstance(error, Cancelled) else "error"
        problem = self.problem
        told = {"status": problem.status, "message": problem.message, "field": problem.field}
        self._end(state, told)

    async def wait(self) -> Drawn:
        """What was drawn, when it is; raises what it failed with."""
        async for _ in self.events():
            pass
        if self.drawn is None:
            assert self.error is not None
            raise self.error
        return self.drawn

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """The events after a number, until it is over. Only the newest event has its preview."""
        while True:
            changed = self._changed
            for event in self._events[after:]:
                after = event.number
                yield event
            if self.over and after == len(self._events):
                return
            if after == len(self._events):
                await changed.wait()

    def tell(self, kind: str, data: Mapping[str, Any], preview: bytes | None = None) -> None:
        """Add an event."""
        if preview is not None and self._events:
            self._forget_preview()
        self._events.append(Event(len(self._events) + 1, kind, data, preview))
        self._changed.set()
        self._changed = asyncio.Event()

    def _forget_preview(self) -> None:
        """Drop the preview before the newest, unless it was asked for."""
        for place in range(len(self._events) - 1, -1, -1):
            event = self._events[place]
            if event.preview is not None and not event.data.get("partial"):
                self._events[place] = Event(event.number, event.kind, event.data)
                return

    def _end(self, state: State, data: Mapping[str, Any]) -> None:
        self.state, self.ended = state, time.time()
        self.stop.stop()
        if self.timer is not None:
            self.timer.cancel()
        self.tell(state, data)
