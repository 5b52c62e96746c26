"""The service on Ray Serve: an ingress that listens, and painters, each with a batcher of its own.

`serve run latentrt.serving.ray:build models='["bundle"]'`, or a configuration file.
Ray sends statistics of its use to its makers by default. `build` switches them off for a Ray that
this process starts; $RAY_USAGE_STATS_ENABLED decides for others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve as ray_serve
from ray.serve import Application

from latentrt.bundle.errors import Cancelled, EngineError, as_latentrt
from latentrt.engines.cache.cache import Build
from latentrt.runtime import Pipeline, Size
from latentrt.runtime.batcher import Load
from latentrt.serving.app import app_of
from latentrt.serving.backlog import Backlog, Painters
from latentrt.serving.gates import Gate, read_keys
from latentrt.serving.limits import Limits
from latentrt.serving.metrics import Metrics
from latentrt.serving.opening import OtherSizes, service_of, service_over
from latentrt.serving.order import Order
from latentrt.serving.painter import Drawn, Stop, Told
from latentrt.serving.remote import BEGUN, RemotePainter
from latentrt.serving.shelf import Shelf

serve: Final[Any] = ray_serve  # its functions are not typed
_CONNECTIONS: Final = 10_000
"""Connections of the ingress: those that follow a job are open for as long as it is drawn."""
_PAUSE: Final = 0.02
"""Seconds between messages to the ingress: steps of a small model are faster than those are."""
_VARIANTS: Final = 8
"""Variants that Ray Serve knows a painter to have; the painter keeps its own number of engines."""


class Settings(BaseModel):
    """The arguments of a configuration. Paths must be the same on every machine.

    `pipeline` are arguments of `Pipeline.open`. `model_memory` is in bytes. There are from
    `min_painters` to `max_painters`: as many as draw what waits in `target_seconds`.
    """

    model_config = ConfigDict(extra="forbid")

    models: list[Path] = Field(min_length=1)
    lora_dir: Path | None = None
    embedding_dir: Path | None = None
    control_dir: Path | None = None
    size: list[str] = []
    other_sizes: OtherSizes = "compile"
    max_batch: int = Field(8, ge=1)
    batch_sizes: list[int] | None = None
    model_memory: int | None = None
    pipeline: dict[str, Any] = {}
    limits: Limits = Limits(deadline=600.0)
    api_key_file: Path | None = None
    allow_origin: list[str] = []
    log: str = "text"
    min_painters: int = Field(1, ge=1)
    max_painters: int = Field(4, ge=1)
    target_seconds: float = Field(30.0, gt=0)

    @property
    def shelf(self) -> Shelf:
        """What the service has, by name."""
        return Shelf(tuple(self.models), self.lora_dir, self.embedding_dir, self.control_dir)

    @property
    def orders(self) -> int:
        """Orders that a painter has at once: it has the next rows before a call ends."""
        return 2 * self.max_batch

    @property
    def drawing(self) -> int:
        """Orders of all painters. The ingress sends no more, so none it took in is refused."""
        return self.orders * self.max_painters


class PainterReplica:
    """A painter of this process, behind a handle."""

    def __init__(self, settings: Settings) -> None:
        limits = replace(settings.limits, drawing=settings.orders * settings.limits.images)

        def opened(path: Path, *, build: Build) -> Pipeline:
            return Pipeline.open(path, build=build, **settings.pipeline)

        self._service = service_over(
            settings.shelf,
            opened,
            limits=limits,
            sizes=[Size.parse(each) for each in settings.size],
            other_sizes=settings.other_sizes,
            max_batch=settings.max_batch,
            batch_sizes=settings.batch_sizes,
            memory=settings.model_memory,
        )
        self._backlog = Backlog()
        self._threads = ThreadPoolExecutor(settings.orders, thread_name_prefix="latentrt-order")
        self._service.warm()

    def __del__(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._service.close()

    async def load(self) -> Load:
        """How busy its batcher is. Ray Serve asks it once it has drawn a step."""
        return self._service.painter.load

    def check_health(self) -> None:
        """Raise `EngineError` where rows wait and no call ends: Ray Serve takes another painter."""
        idle = self._service.pulse.idle_seconds()
        if idle > self._service.limits.stalled:
            raise EngineError(f"no step for {idle:.0f} seconds")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the number of painters is decided by."""
        return self._backlog.seconds()

    @serve.multiplexed(max_num_models_per_replica=_VARIANTS)
    async def variant(self, name: str) -> str:
        """Note that this painter draws with a variant; the pipeline makes and keeps it."""
        return name

    async def draw(self, name: str, order: Order) -> AsyncGenerator[list[object]]:
        """What happens, as it happens: `BEGUN`, each step, and at last what was drawn or the error.

        Where the caller cancels, the rows are gone from the next call.
        """
        if model := serve.get_multiplexed_model_id():
            await self.variant(model)
        loop = asyncio.get_running_loop()
        happened: asyncio.Queue[object] = asyncio.Queue()
        stop = Stop()

        def soon(event: object) -> None:
            loop.call_soon_threadsafe(happened.put_nowait, event)

        def tell(told: Told) -> None:
            self._backlog.step(name, told)
            soon(told)

        def ended(future: Future[Drawn]) -> None:
            self._backlog.end(name)
            if future.cancelled():
                soon(Cancelled("the run was cancelled"))
            else:
                error = future.exception()
                soon(future.result() if error is None else as_latentrt(error))

        self._backlog.begin(name, order)
        painter = self._service.painter
        future = self._threads.submit(painter.draw, order, lambda: soon(BEGUN), tell, stop)
        future.add_done_callback(ended)
        try:
            over = False
            while not over:
                events = [await happened.get()]
                while not happened.empty():
                    events.append(happened.get_nowait())
                over = isinstance(events[-1], Drawn | BaseException)
                yield events
                if not over:
                    await asyncio.sleep(_PAUSE)
        finally:
            stop.stop()


class Ingress:
    """The service's application. It has no engines, and every job: there is one of it."""

    def __init__(self, settings: Settings, painter: Any) -> None:
        shelf = settings.shelf
        remote = RemotePainter(painter, shelf.model_names[0])
        self._log = settings.log
        keys = settings.api_key_file
        self._gate = Gate(
            () if keys is None else read_keys(keys.read_text(encoding="utf-8").splitlines()),
            tuple(settings.allow_origin),
            settings.limits.body,
        )
        limits = replace(settings.limits, drawing=settings.drawing)
        metrics = Metrics()
        metrics.watch(None, shelf.model_names)
        self.service = service_of(remote, shelf, limits, metrics, remote.warm)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return app_of(self.service, self._gate, self._log)


def build(settings: Settings) -> Application:
    """The application of a configuration."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},  # it waits for painters
        max_ongoing_requests=_CONNECTIONS,
        graceful_shutdown_timeout_s=_longest(settings),
    )
    return ingress.bind(settings, painters(settings))


def painters(settings: Settings) -> Application:
    """The painters alone."""
    return serve.deployment(
        PainterReplica,
        name="painter",
        max_ongoing_requests=settings.orders,
        max_queued_requests=settings.drawing,
        graceful_shutdown_timeout_s=_longest(settings),
        autoscaling_config={
            "min_replicas": settings.min_painters,
            "max_replicas": settings.max_painters,
            "upscale_delay_s": 5,
            "policy": {
                "policy_function": Painters,
                "policy_kwargs": {"seconds": settings.target_seconds},
            },
        },
    ).bind(settings)


def _longest(settings: Settings) -> float:
    """Seconds longer than any picture takes: who is to end finishes its own."""
    return settings.limits.deadline + 5


# Ray Serve asks for the class itself, where the annotation is a text.
build.__annotations__["settings"] = Settings
