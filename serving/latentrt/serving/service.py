"""A service: what its routes share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from latentrt.serving.jobs import Jobs
from latentrt.serving.limits import Limits
from latentrt.serving.metrics import Metrics
from latentrt.serving.painter import Painter
from latentrt.serving.shelf import Shelf
from latentrt.serving.traces import Traces
from latentrt.serving.webui.options import ClientOptions

_TICK: Final = 0.01
"""Seconds between looks at the event loop's clock."""

Phase = Literal["starting", "ready", "draining"]


@dataclass(slots=True)
class Service:
    """The parts of a service. `warm` compiles what is to be there at the start; it blocks.

    `failure` is why it could not start. `web_options` are those of the web UI's API.
    """

    shelf: Shelf
    limits: Limits
    jobs: Jobs
    painter: Painter
    metrics: Metrics
    traces: Traces
    warm: Callable[[], None]
    phase: Phase = "starting"
    failure: str = ""
    web_options: ClientOptions = field(default_factory=ClientOptions)
    pulse: Pulse = field(init=False)

    def __post_init__(self) -> None:
        self.pulse = Pulse(self.painter)

    async def start(self) -> None:
        """Warm up in a thread; until then it is not ready."""
        try:
            await asyncio.to_thread(self.warm)
        except Exception as error:
            self.failure = str(error) or type(error).__name__
        if self.phase == "starting" and not self.failure:
            self.phase = "ready"

    async def watch(self) -> None:
        """Measure for how long the event loop is blocked, until it is cancelled."""
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(_TICK)
            self.metrics.lagged(time.perf_counter() - begun - _TICK)

    def close(self) -> None:
        """Cancel what is left, and close the models; it blocks."""
        self.jobs.close()
        self.painter.close()

    async def end(self) -> None:
        """Take nothing more in, and finish what there is."""
        self.phase = "draining"
        await self.jobs.drain(self.limits.drain)


class Pulse:
    """Whether the batcher's loop moves while rows wait."""

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self._moved = time.monotonic()
        self._calls = (0, 0)

    def idle_seconds(self) -> float:
        """Seconds since a call ended while rows waited; 0 where none wait."""
        load, now = self._painter.load, time.monotonic()
        calls = (load.calls, load.decodes)
        if calls != self._calls or (load.rows == 0 and load.latents == 0):
            self._calls, self._moved = calls, now
        return now - self._moved
