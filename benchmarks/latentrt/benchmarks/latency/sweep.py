"""A sweep: every combination of engines, sizes, steps and batches, each in a process of its own.

A point that fails, such as for want of memory, is a row that says why; the others go on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from latentrt.benchmarks.latency.bench import check_batches, measure_errors
from latentrt.benchmarks.latency.load import server, unet_rows
from latentrt.benchmarks.latency.report import SCHEMA, Errors
from latentrt.benchmarks.latency.tables import Table, gigabytes, seconds
from latentrt.benchmarks.latency.workload import Workload
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.process import answer, answer_of, answers, job
from latentrt.benchmarks.samples import Samples
from latentrt.bundle.errors import EngineError, InputError, LatentrtError
from latentrt.runtime import Pipeline, Request, Size

Progress = Callable[[str, int, int], None]
"""Told which point is measured, how many are done, and how many there are."""

_MODULE: Final = "latentrt.benchmarks.latency.sweep"
_FEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class Grid:
    """What to combine. A size None is the checkpoint's own; a batch is images drawn together.

    Raises `InputError` for fewer than 1 step.
    """

    engines: tuple[str, ...]
    sizes: tuple[Size | None, ...]
    steps: tuple[int, ...]
    batches: tuple[int, ...]

    def __post_init__(self) -> None:
        if min(self.steps) < 1:
            raise InputError("steps", "numbers of at least 1", min(self.steps))

    @property
    def is_sweep(self) -> bool:
        """Whether there is more than one engine, size or number of steps."""
        return max(len(self.engines), len(self.sizes), len(self.steps)) > 1

    def workloads(self, base: Workload) -> list[tuple[Workload, int]]:
        """A workload and a batch for every point, engines first."""
        points = itertools.product(self.engines, self.sizes, self.steps, self.batches)
        return [(_workload(base, e, size, steps), batch) for e, size, steps, batch in points]


@dataclass(frozen=True, slots=True)
class Point:
    """One combination, and what was found: seconds of a batch, or the `problem`.

    `first` is the seconds to the first batch, engines loaded or compiled; `memory` the process's
    peak in bytes; `errors` are the engines', relative to PyTorch in fp32.
    """

    engine: str
    size: str
    steps: int
    batch: int
    problem: str = ""
    precision: str = ""
    first: float | None = None
    samples: Samples | None = None
    memory: int | None = None
    errors: Errors = field(default_factory=Errors)

    @property
    def rate(self) -> float | None:
        """Images a second, by the median."""
        return None if self.samples is None else self.batch / self.samples.median

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; null for an unknown value."""
        return {
            **asdict(self),
            "samples": None if self.samples is None else self.samples.to_json(),
            "images_per_second": self.rate,
            "errors": self.errors.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Sweep:
    """All points of one call; `interrupted` where Ctrl-C ended it early."""

    source: str
    machine: Machine
    points: tuple[Point, ...]
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object (docs/bench.schema.json)."""
        points = [point.to_json() for point in self.points]
        head = {"schema": SCHEMA, "kind": "sweep"}
        return {**head, **asdict(self), "points": points}


def sweep(
    base: Workload, grid: Grid, source: str, *, runs: int, limit: float, progress: Progress
) -> Sweep:
    """Measure every point: `runs` batches after a warm-up, fewer (but 3) beyond `limit` seconds.

    `source` is the checkpoint's name. Raises `InputError` for a batch below 1.
    """
    check_batches(grid.batches)
    workloads = grid.workloads(base)
    points: list[Point] = []
    known: dict[str, Errors] = {}
    for done, (workload, batch) in enumerate(workloads):
        engine = str(workload.engine["engine"])
        progress(_name(workload, batch), done, len(workloads))
        asked = {"batch": batch, "runs": runs, "limit": limit, "errors": engine not in known}
        try:
            point = _point(workload, batch, {**workload.to_json(), **asked})
        except KeyboardInterrupt:
            return Sweep(source, Machine.here(), tuple(points), interrupted=True)
        if not point.problem:
            # An engine's errors are measured once, by its first point.
            known.setdefault(engine, point.errors)
            point = replace(point, errors=known[engine])
        points.append(point)
    progress("", len(workloads), len(workloads))
    return Sweep(source, Machine.here(), tuple(points))


def _workload(base: Workload, engine: str, size: Size | None, steps: int) -> Workload:
    sampling = replace(base.request.sampling, steps=steps)
    request = base.request.with_values(size=size, sampling=sampling)
    return replace(base, engine={**base.engine, "engine": engine}, request=request)


def _name(workload: Workload, batch: int) -> str:
    request = workload.request
    size = "own size" if request.size is None else str(request.size)
    return f"{workload.engine['engine']}, {size}, {request.sampling.steps} steps, batch {batch}"


def table(found: Sweep) -> Table:
    """One aligned row a point."""
    rows: list[tuple[str, ...]] = []
    for each in found.points:
        head = (f"{each.engine} {each.precision}".strip(), each.size, str(each.steps))
        if each.samples is None:
            rows.append((*head, str(each.batch), *("",) * 7, each.problem))
            continue
        times = (seconds(each.samples.percentile(n)) for n in (50, 10, 90))
        error = each.errors.beside("unet call")
        rows.append(
            (*head, str(each.batch), f"{each.rate:.3f}", *times, seconds(each.first or 0.0),
             gigabytes(each.memory), error, "")
        )  # fmt: skip
    heads = ("engine", "size", "steps", "batch", "images/s", "median", "p10", "p90", "first")
    return Table(
        "a batch of images, warm; error: the U-Net's, relative to PyTorch fp32",
        (*heads, "peak memory", "error", ""),
        tuple(rows),
    )


def measure_point(asked: Mapping[str, Any]) -> dict[str, Any]:
    """In the point's own process: the fields of a `Point` that it finds, or its `problem`."""
    workload = Workload.from_json(asked)
    try:
        with Pipeline.open(workload.bundle, **workload.engine) as pipeline:
            return _measured(pipeline, workload.request, asked)
    except (LatentrtError, MemoryError, OSError) as error:
        return {"problem": " ".join(str(error).split()) or type(error).__name__}


def _measured(pipeline: Pipeline, request: Request, asked: Mapping[str, Any]) -> dict[str, Any]:
    batch: int = asked["batch"]
    requests = [request.with_values(seed=number) for number in range(batch)]
    rows = unet_rows(pipeline.bundle.manifest, request)
    times: list[float] = []
    with (
        server(pipeline, rows, batch if batch > 1 else None) as serve,
        ThreadPoolExecutor(batch) as clients,
    ):
        # The first batch compiles or loads the engines.
        while len(times) <= asked["runs"]:
            if len(times) > _FEWEST and sum(times[1:]) > asked["limit"]:
                break
            begun = time.perf_counter()
            results = list(clients.map(serve, requests))
            size = results[0].request.size
            times.append(time.perf_counter() - begun)
    memory = Memory.here().peak
    return {
        "size": str(size),
        "precision": pipeline.precisions["unet"],
        "first": times[0],
        "seconds": times[1:],
        "memory": memory,
        "errors": measure_errors(pipeline).to_json() if asked["errors"] else None,
    }


def _point(workload: Workload, batch: int, asked: Mapping[str, Any]) -> Point:
    """Measure a point in a process of its own."""
    request = workload.request
    size = "own" if request.size is None else str(request.size)
    point = Point(str(workload.engine["engine"]), size, request.sampling.steps, batch)
    try:
        found = answer_of("process", _MODULE, asked)
    except EngineError as error:
        return replace(point, problem=str(error))
    if "problem" in found:
        return replace(point, problem=found["problem"])
    return replace(
        point,
        size=found["size"],
        precision=found["precision"],
        first=found["first"],
        samples=Samples.of(found["seconds"]),
        memory=found["memory"],
        errors=Errors.from_json(found["errors"]) if found["errors"] else Errors(),
    )


if __name__ == "__main__":
    _stream = answers()
    answer(_stream, measure_point(job()))
