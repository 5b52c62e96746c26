"""One configuration measured: cold and warm, by stage, under load, and beside the ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

from latentrt.benchmarks.latency.cold import ColdStart, cold_starts
from latentrt.benchmarks.latency.load import Arrivals, Throughput, arrivals, throughput, unet_rows
from latentrt.benchmarks.latency.notes import Notes
from latentrt.benchmarks.latency.nvml import GpuState, GpuWatch
from latentrt.benchmarks.latency.report import Errors, Report
from latentrt.benchmarks.latency.roofline import measure_ceilings, rooflines
from latentrt.benchmarks.latency.timed_pipeline import ImageTimes, TimedPipeline
from latentrt.benchmarks.latency.workload import Workload
from latentrt.benchmarks.machine import Machine, load
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.numerics.compare import compare
from latentrt.benchmarks.samples import Samples
from latentrt.bundle.errors import InputError
from latentrt.engines.registry import backend
from latentrt.runtime import Pipeline, Request, Result

Progress = Callable[[str, int, int], None]
"""Told of a part, how many of its measurements are done, and how many there are."""

_WARM_UP: Final = 2
_FEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure.

    `runs` warm images, fewer (but 3) where they would take more than `limit` seconds; `batches` in
    images, each for `requests` or `limit` seconds; `arrivals` requests at each rate, 0 for none.
    Raises `InputError` for a number that is too small.
    """

    runs: int = 20
    limit: float = 120.0
    cold: bool = True
    ceilings: bool = True
    batches: tuple[int, ...] = (1, 2, 4)
    requests: int = 16
    arrivals: int = 0

    def __post_init__(self) -> None:
        counts = (("runs", self.runs, 1), ("requests", self.requests, 1))
        for name, count, least in (*counts, ("arrivals", self.arrivals, 0)):
            if count < least:
                raise InputError(name, f"at least {least}", count)
        if not self.limit >= 0:
            raise InputError("limit", "at least 0 seconds", self.limit)
        check_batches(self.batches)


def check_batches(batches: Sequence[int]) -> None:
    """Raise `InputError` for a batch of no image."""
    if any(batch < 1 for batch in batches):
        raise InputError("batch", "numbers of at least 1, or 0 alone", ",".join(map(str, batches)))


def measure(workload: Workload, plan: BenchPlan, progress: Progress) -> Report:
    """Measure a workload on this machine.

    Raises what `Pipeline.open` and a run raise. Once the warm images are drawn, a failure is a note
    of the report, and Ctrl-C ends it early.
    """
    before = load()
    notes = Notes()
    cold = _cold(workload, notes, progress) if plan.cold else ()
    with TimedPipeline.open(workload.bundle, **workload.engine) as pipeline:
        times, result, gpu = _warm(pipeline, workload.request, plan, progress)
        # Before any later part changes them.
        sizes, memory, rows = pipeline.sizes, Memory.here(), _rows(times)
        count = unet_rows(pipeline.bundle.manifest, workload.request)
        measured = partial(measure_ceilings, pipeline, notes, partial(progress, "ceilings"))
        ceilings = notes.part("ceilings", measured, {}) if plan.ceilings else {}
        roofs = rooflines(pipeline, sizes, rows, ceilings, notes)

        serve = partial(throughput, pipeline, workload.request, count, plan.batches)
        arrive = partial(arrivals, pipeline, workload.request, count, max(plan.batches, default=4))

        def loops() -> tuple[Throughput, ...]:
            heard = partial(progress, "throughput")
            return serve(requests=plan.requests, limit=plan.limit, progress=heard)

        def poisson() -> tuple[Arrivals, ...]:
            heard = partial(progress, "arrivals")
            return arrive(rows["image"].median, requests=plan.arrivals, progress=heard)

        served = notes.part("throughput", loops, ()) if plan.batches else ()
        arrived = notes.part("arrivals", poisson, ()) if plan.arrivals else ()
        errors = notes.part("errors", lambda: measure_errors(pipeline), Errors())
        if not pipeline.bundle.manifest.has_goldens:
            notes.add("errors: unknown, the bundle has no reference outputs of PyTorch")
        return Report(
            workload=_described(workload, pipeline, result, count),
            engines=dict(pipeline.engines),
            precisions=dict(pipeline.precisions),
            machine=Machine.here(),
            load={"before": before, "after": load()},
            gpu=gpu,
            rows=rows,
            memory=memory,
            cold=cold,
            ceilings=ceilings,
            rooflines=roofs,
            throughput=served,
            arrivals=arrived,
            errors=errors,
            notes=notes.lines,
            interrupted=notes.interrupted,
        )


def measure_errors(pipeline: Pipeline) -> Errors:
    """Errors relative to the bundle's reference outputs; unknown where there are none."""
    if not pipeline.bundle.manifest.has_goldens:
        return Errors()
    found = compare(pipeline)
    relative = {row.name: row.difference.relative for row in found.components}
    relative["steps"] = max(row.difference.relative for row in found.steps)
    return Errors(relative, found.picture_psnr)


def _cold(workload: Workload, notes: Notes, progress: Progress) -> tuple[ColdStart, ...]:
    progress("cold", 0, 1)
    found = cold_starts(workload)
    progress("cold", 1, 1)
    for each in found:
        if each.note:
            notes.add(each.note)
    return found


def _warm(
    pipeline: TimedPipeline, request: Request, plan: BenchPlan, progress: Progress
) -> tuple[list[ImageTimes], Result, GpuState | None]:
    """The times of every image after the warm-up, the last image, and an NVIDIA GPU's state."""
    found: list[ImageTimes] = []
    total = _WARM_UP + plan.runs
    for done in range(_WARM_UP):
        progress("warm", done, total)
        _, result = pipeline.image(request)
    begun = time.perf_counter()
    with GpuWatch() as watch:
        while len(found) < plan.runs:
            if len(found) >= _FEWEST and time.perf_counter() - begun > plan.limit:
                break
            progress("warm", _WARM_UP + len(found), total)
            times, result = pipeline.image(request)
            found.append(times)
    progress("warm", total, total)
    on_gpu = any(backend(name).device == "cuda" for name in pipeline.engines.values())
    return found, result, watch.state if on_gpu else None


def _rows(times: Sequence[ImageTimes]) -> dict[str, Samples]:
    rows = {
        "image": [each.total for each in times],
        "text": [each.text for each in times],
        "step": list(chain.from_iterable(each.steps for each in times)),
        "decode": [each.decode for each in times],
        "runtime": [each.runtime for each in times],
    }
    for component in dict.fromkeys(chain.from_iterable(each.calls for each in times)):
        calls = (each.calls.get(component, ()) for each in times)
        rows[f"{component} call"] = list(chain.from_iterable(calls))
    return {name: Samples.of(seconds) for name, seconds in rows.items()}


def _described(workload: Workload, pipeline: Pipeline, result: Result, rows: int) -> dict[str, Any]:
    """The workload as it was resolved; of the bundle's path, the last part."""
    manifest = pipeline.bundle.manifest
    return {
        **workload.to_json(),
        "bundle": workload.bundle.name,
        "source": manifest.source,
        "dtype": manifest.dtype,
        "size": str(result.request.size),
        "sampler": result.sampler,
        "rows": rows,
    }
