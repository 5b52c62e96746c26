"""The process: it listens, drains at the first SIGTERM, and ends at the second."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from latentrt.serving.service import Service

_LINGER: Final = 5.0
"""Seconds after the last picture in which clients that poll may fetch theirs."""
_LAST: Final = 5.0
"""Seconds after a second signal in which the process ends by itself."""
_HEADER_BYTES: Final = 64 << 10
_SWITCH: Final = 0.001
"""Seconds for which a thread that draws may keep the event loop waiting; Python's own is 0.005."""


class Server(uvicorn.Server):
    """uvicorn over a service's app. `listening` is called with the port once it listens."""

    def __init__(
        self,
        app: FastAPI,
        service: Service,
        host: str,
        port: int,
        listening: Callable[[int], None] = lambda port: None,
        root_path: str = "",
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host,
                port,
                log_config=None,
                access_log=False,
                lifespan="on",
                loop="asyncio",
                http="h11",
                ws="none",
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_graceful_shutdown=10,
                root_path=root_path,
                server_header=False,
            )
        )
        self._service = service
        self._listening = listening
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Listen, and tell of it."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # pyright: ignore[reportArgumentType]
        if self.started:
            self._listening(self.servers[0].sockets[0].getsockname()[1])

    async def on_tick(self, counter: int) -> bool:
        """Whether to end: also where the service could not start."""
        return bool(self._service.failure) or await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; end at once at a second."""
        if self._loop is None or self._ending is not None or sig == signal.SIGINT:
            self.should_exit = True
            if self._ending is not None:
                self.force_exit = True
                # A compiler that runs in a thread cannot be interrupted.
                hard = threading.Timer(_LAST, os._exit, (1,))
                hard.daemon = True
                hard.start()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._service.jobs.cancel_all)
            return
        self._service.phase = "draining"
        self._service.jobs.closing = True
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._ending = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        await self._service.end()
        for _ in range(int(_LINGER / 0.1)):
            if all(job.fetched or not job.drawn for job in self._service.jobs):
                break
            await asyncio.sleep(0.1)
        self.should_exit = True


def switch_threads_often() -> None:
    """Let the event loop go on soon while other threads of this process draw."""
    sys.setswitchinterval(_SWITCH)


def log_to_stderr() -> None:
    """Write the service's log, a line a request, on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("latentrt.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
