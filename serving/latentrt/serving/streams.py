"""Server-sent events, and answers whose client may go."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse

from latentrt.bundle.errors import Cancelled
from latentrt.serving.job import Job
from latentrt.serving.jobs import Jobs
from latentrt.serving.painter import Drawn

KEEP_ALIVE: Final = 15.0
"""Seconds without an event after which a comment is sent."""
_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event: its name, and its data as JSON."""

    event: str
    data: Mapping[str, Any]
    number: int | None = None

    def encode(self) -> bytes:
        """As it is sent."""
        number = None if self.number is None else str(self.number)
        return format_sse_event(data_str=json.dumps(self.data), event=self.event, id=number)


def stream(messages: AsyncIterator[Message]) -> StreamingResponse:
    """An answer of events, with a comment where none comes for long.

    The iterator is closed when the client goes.
    """
    return StreamingResponse(
        _kept_alive(messages), headers=_HEADERS, media_type="text/event-stream"
    )


async def drawn_for(request: Request, jobs: Jobs, job: Job, *, kept: bool = False) -> Drawn:
    """What a job drew. Where the client goes before, the job is cancelled. Raises its error.

    The job is forgotten: who asked has the answer. One that is to be `kept` stays.
    """
    waits = asyncio.ensure_future(job.wait())
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((waits, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waits.done():
            raise Cancelled("the client has gone")
        job.fetched = True
        return waits.result()
    finally:
        jobs.cancel(job)
        for each in (waits, gone):
            each.cancel()
            with contextlib.suppress(BaseException):
                await each
        if not kept:
            jobs.forget(job)


async def _gone(request: Request) -> None:
    """Wait until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _kept_alive(messages: AsyncIterator[Message]) -> AsyncGenerator[bytes]:
    """Events as they are sent."""
    iterator = aiter(messages)
    waits = asyncio.ensure_future(anext(iterator, None))
    try:
        while True:
            done, _ = await asyncio.wait((waits,), timeout=KEEP_ALIVE)
            if not done:
                yield KEEPALIVE_COMMENT
                continue
            message = waits.result()
            if message is None:
                return
            yield message.encode()
            waits = asyncio.ensure_future(anext(iterator, None))
    finally:
        waits.cancel()
        with contextlib.suppress(BaseException):
            await waits
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
