"""A service over bundles and checkpoints of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal, Protocol

from latentrt.engines.cache.cache import Build
from latentrt.runtime import Pipeline, Request, Sampling, Size
from latentrt.runtime.checks import one_of
from latentrt.serving.job import Job
from latentrt.serving.jobs import Jobs
from latentrt.serving.limits import Limits
from latentrt.serving.metrics import Metrics
from latentrt.serving.models import Models
from latentrt.serving.order import Order
from latentrt.serving.painter import LocalPainter, Painter, Stop
from latentrt.serving.service import Service
from latentrt.serving.shelf import Shelf
from latentrt.serving.traces import Traces

OtherSizes = Literal["compile", "refuse"]
OTHER_SIZES: Final[tuple[OtherSizes, ...]] = ("compile", "refuse")


class Opener(Protocol):
    """Opens a model."""

    def __call__(self, path: Path, *, build: Build) -> Pipeline:
        """The pipeline over a bundle or checkpoint, as `Pipeline.open`."""
        ...


def service_over(
    shelf: Shelf,
    opened: Opener,
    *,
    limits: Limits | None = None,
    sizes: Sequence[Size] = (),
    other_sizes: OtherSizes = "compile",
    max_batch: int = 8,
    batch_sizes: Sequence[int] | None = None,
    memory: int | None = None,
    traces: Traces | None = None,
) -> Service:
    """A service whose models `opened` opens. It compiles for `sizes` when it starts.

    Without sizes that is the default model's own. `other_sizes` are compiled when a request asks
    for them, or such a request is refused. `memory` are the bytes of weights that open models may
    take together. Other arguments are those of `Pipeline.batcher`. Raises `InputError`.
    """
    one_of("other-sizes", other_sizes, OTHER_SIZES)
    limits = limits or Limits()
    default = shelf.model_names[0]

    def painter_of(build: Build) -> LocalPainter:
        room = limits.drawing + limits.images
        return LocalPainter(
            Models(shelf, partial(opened, build=build), memory),
            default,
            lambda pipe: pipe.batcher(max_batch=max_batch, batch_sizes=batch_sizes, queue=room),
        )

    refused = other_sizes == "refuse"
    painter = painter_of("never" if refused else "missing")

    def warm() -> None:
        if refused:
            compiling = painter_of("missing")
            try:
                _warm(compiling, default, tuple(sizes) or (None,))
            finally:
                compiling.close()
        _warm(painter, default, tuple(sizes) or (None,))

    metrics = Metrics()
    metrics.watch(painter, shelf.model_names)
    return service_of(painter, shelf, limits, metrics, warm, traces)


def service_of(
    painter: Painter,
    shelf: Shelf,
    limits: Limits,
    metrics: Metrics,
    warm: Callable[[], None],
    traces: Traces | None = None,
) -> Service:
    """A service over any painter."""
    spans = traces or Traces()

    def ended(job: Job) -> None:
        metrics.ended(job)
        spans.ended(job)

    jobs = Jobs(painter, limits, ended)
    return Service(shelf, limits, jobs, painter, metrics, spans, warm)


def _warm(painter: LocalPainter, model: str, sizes: Sequence[Size | None]) -> None:
    """Draw one step at each size: that compiles what is missing and shows that it works."""
    for size in sizes:
        request = Request("a warm-up", size=size, seed=0, sampling=Sampling(steps=1))
        painter.draw(Order(model, request), lambda: None, lambda told: None, Stop())
