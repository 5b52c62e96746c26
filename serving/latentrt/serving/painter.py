"""Who draws: orders to files, by one batcher over all models. Nothing here knows of HTTP."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from latentrt.bundle.manifest import Manifest
from latentrt.runtime import (
    Batcher,
    Cancelled,
    InputError,
    Pipeline,
    Request,
    Result,
    Size,
    Step,
)
from latentrt.runtime.batched_run import BatchedRun
from latentrt.runtime.batcher import Load
from latentrt.serving.models import Models
from latentrt.serving.order import Order

PREVIEW_EVERY: Final = 0.5
"""Seconds between previews, at least."""
STAGES: Final = ("compile", "text", "unet", "vae")
NOTHING: Final = Load(0, 0, 0, 0, 0, 0, 0)
"""Of a painter that has drawn nothing."""
_QUALITY: Final = 70
"""Of a preview's JPEG."""


@dataclass(frozen=True, slots=True)
class Told:
    """A step behind us: `index` of `total` of picture `image`, and perhaps a JPEG of it.

    A `partial` preview was asked for at this step.
    """

    image: int
    index: int
    total: int
    preview: bytes | None = None
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """The files of an order, the request that makes each, and what was noted.

    `parameters` are each picture's as web UIs write them. `seconds` are those from submission,
    `stages` those of "compile", "text", "unet" and "vae".
    """

    files: tuple[bytes, ...]
    requests: tuple[Request, ...]
    parameters: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    stages: Mapping[str, float]


class Stop:
    """Ends a run, also one that is yet to begin. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancels: list[Callable[[], None]] = []
        self.stopped = False

    def attach(self, cancel: Callable[[], None]) -> None:
        """Have something called at the stop; at once where that came before."""
        with self._lock:
            self._cancels.append(cancel)
            stopped = self.stopped
        if stopped:
            cancel()

    def stop(self) -> None:
        """End the run; a second time does nothing."""
        with self._lock:
            if self.stopped:
                return
            self.stopped = True
            cancels = list(self._cancels)
        for cancel in cancels:
            cancel()


class Painter(Protocol):
    """Draws orders, here or on another machine."""

    @property
    def load(self) -> Load:
        """How busy the batcher of this process is."""
        ...

    def manifest_of(self, model: str) -> Manifest | None:
        """A model's manifest; None while this process has it not open."""
        ...

    def close(self) -> None:
        """Cancel what is drawn, and close what it has open; it blocks."""
        ...

    def draw(
        self, order: Order, begun: Callable[[], None], tell: Callable[[Told], None], stop: Stop
    ) -> Drawn:
        """The pictures of an order. Blocks, and calls `begun` and `tell` from its own thread.

        Raises what the run raises, `Cancelled` after a stop.
        """
        ...


class LocalPainter:
    """Draws with the models of this process, by one batcher. Thread-safe.

    `batcher_of` makes the batcher of the default model, at its first use.
    """

    def __init__(
        self, models: Models, default: str, batcher_of: Callable[[Pipeline], Batcher]
    ) -> None:
        self._models = models
        self._default = default
        self._batcher_of = batcher_of
        self._lock = threading.Lock()
        self._batcher: Batcher | None = None

    @property
    def load(self) -> Load:
        """How busy it is."""
        return NOTHING if self._batcher is None else self._batcher.load

    def manifest_of(self, model: str) -> Manifest | None:
        """A model's manifest; None while the model is not open."""
        pipeline = self._models.if_open(model)
        return None if pipeline is None else pipeline.bundle.manifest

    def close(self) -> None:
        """Cancel what is drawn, and close the models."""
        if self._batcher is not None:
            self._batcher.close(cancel=True)
        self._models.close()

    def draw(
        self,
        order: Order,
        begun: Callable[[], None],
        tell: Callable[[Told], None],
        stop: Stop,
    ) -> Drawn:
        """As `Painter.draw`."""
        start = time.perf_counter()
        if stop.stopped:
            raise Cancelled("the run was cancelled")
        batcher = self._opened()
        with self._models.using(order.model) as pipeline:
            run = batcher.submit(order.request, pipeline=pipeline)
            stop.attach(run.cancel)
            begun()
            _follow(run, order, tell)
            result = run.result()
            files = [
                result.encode(i, order.format, quality=order.quality)
                for i in range(len(result.images))
            ]
        return _drawn(result, files, time.perf_counter() - start)

    def _opened(self) -> Batcher:
        """The batcher, made at its first use."""
        with self._lock:
            if self._batcher is None:
                with self._models.using(self._default) as pipeline:
                    self._batcher = self._batcher_of(pipeline)
            return self._batcher


def _drawn(result: Result, files: Sequence[bytes], seconds: float) -> Drawn:
    numbers = range(len(files))
    return Drawn(
        tuple(files),
        tuple(result.request_of(i) for i in numbers),
        tuple(result.parameters(i) for i in numbers),
        result.notes,
        seconds,
        {name: getattr(result.seconds, name) for name in STAGES},
    )


def _follow(run: BatchedRun, order: Order, tell: Callable[[Told], None]) -> None:
    """Tell of each step, with the previews that the order asks for."""
    last, due = -PREVIEW_EVERY, order.partial
    for step in run:
        partial = step.image == 0 and due > 0 and _share(step) >= 1 - due / (order.partial + 1)
        now = time.perf_counter()
        shown = partial or (order.previews and now - last >= PREVIEW_EVERY)
        preview = _jpeg(step, run.plan.request.size) if shown else None
        due -= partial
        if preview is not None:
            last = now
        tell(Told(step.image, step.index, step.total, preview, partial and preview is not None))


def _share(step: Step) -> float:
    return (step.index + 1) / step.total


def _jpeg(step: Step, size: Size | None) -> bytes | None:
    """A preview without a model, at the picture's size; None where the bundle has no matrix."""
    buffer = io.BytesIO()
    try:
        small = step.preview(fast=True)
    except InputError:
        return None
    side = 1 if size is None else max(size.width / small.width, 1)
    large = small.resize((round(small.width * side), round(small.height * side)))
    large.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
