"""How fast a bundle draws here: cold, warm, by stage, together with others, and beside the limit.

`measure` is what `latentrt bench` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np

from latentrt.benchmarks.latency.arrivals import curves
from latentrt.benchmarks.latency.batching import BATCHES, REPEATS, Goodput, Serving
from latentrt.benchmarks.latency.batching import measure as serve
from latentrt.benchmarks.latency.cold import Cold, cold_starts
from latentrt.benchmarks.latency.goodput import Curve
from latentrt.benchmarks.latency.limits import greatest, heights, limits
from latentrt.benchmarks.latency.nvml import GpuState, GpuWatch
from latentrt.benchmarks.latency.report import Report
from latentrt.benchmarks.latency.samples import LEAST, Samples, until_settled
from latentrt.benchmarks.latency.stopwatch import Stages, Stopwatch
from latentrt.benchmarks.latency.subject import Subject
from latentrt.benchmarks.machine import Machine, load
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.notes import Notes
from latentrt.benchmarks.numerics.compare import compare
from latentrt.bundle.errors import InputError
from latentrt.engines.registry import backend
from latentrt.runtime import Request

Progress = Callable[[str, int, int], None]
"""Told of a stage, how many of its parts are done, and how many there are."""

_WARM_UP: Final = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure beside the warm picture itself.

    `runs` are the fewest pictures, `limit` the seconds after which no more are drawn though their
    rows do not agree; `batches` are the batcher's sizes, in U-Net rows, each served `requests`, or,
    where that is None, as many as `limit` has time for; `arrivals` the most requests of each rate
    of arrival, in all its paths, or 0 for none. Raises `InputError` for a number that is too small.
    """

    runs: int = LEAST
    limit: float = 120.0
    cold: bool = True
    ceilings: bool = True
    batches: tuple[int, ...] = BATCHES
    requests: int | None = None
    arrivals: int = 0

    def __post_init__(self) -> None:
        counts = (("runs", self.runs, 1), ("requests", self.requests, 1))
        for name, count, least in (*counts, ("arrivals", self.arrivals, 0)):
            if count is not None and count < least:
                raise InputError(name, f"at least {least}", count)
        if not self.limit >= 0:
            raise InputError("limit", "at least 0 seconds", self.limit)
        if any(batch < 1 for batch in self.batches):
            given = ",".join(map(str, self.batches))
            raise InputError("batch", "numbers of at least 1, or 0 alone", given)


def measure(subject: Subject, plan: Plan, progress: Progress) -> Report:
    """Measure a subject on this machine; what it opens is closed again.

    Once the warm pictures are drawn, what goes wrong is a note of the report, and an interrupt ends
    it. Before, raises what `Pipeline.open` and a run raise.
    """
    loads = {"before": load()}
    cold = _cold(subject, progress) if plan.cold else ()
    notes = Notes(each.note for each in cold if each.note)
    with subject.open() as pipeline:
        progress("warm", 0, plan.runs + 1)
        described = _described(subject, pipeline)
        measured = partial(heights, pipeline, notes, partial(progress, "ceilings"))
        before = measured() if plan.ceilings else {}
        if notes.interrupted:
            raise KeyboardInterrupt
        stages, gpu = _warm(pipeline, subject.request, plan, progress)
        # Before anything else adds to them.
        sizes, memory, rows = pipeline.sizes, Memory.here(), _rows(stages)
        ceilings = greatest(before, measured()) if plan.ceilings else {}
        bounds = limits(pipeline, sizes, rows, ceilings, notes)
        picture = rows["picture"].percentile(50)
        serving = _serving(plan, picture, described["rows"])
        if serving.note:
            notes.add(serving.note)
        together = notes.part(
            "served together",
            lambda: _served(pipeline, subject.request, serving, progress),
            (),
        )
        arriving = notes.part(
            "arriving at random",
            lambda: _arrivals(pipeline, subject.request, picture, plan, progress),
            (),
        )
        errors, psnr = notes.part(
            "how far off the engines are is not known", lambda: _errors(pipeline), ({}, None)
        )
        if not pipeline.bundle.manifest.has_goldens:
            notes.add("no goldens in this bundle: how far off the engines are is not known")
        loads["after"] = load()
        return Report(
            subject=described,
            engines=pipeline.engines,
            precisions=pipeline.precisions,
            machine=Machine.here(),
            load=loads,
            gpu=gpu,
            rows=rows,
            memory=memory,
            cold=cold,
            ceilings=ceilings,
            limits=bounds,
            served=together,
            arrivals=arriving,
            errors=errors,
            picture_psnr=psnr,
            notes=notes.lines,
            interrupted=notes.interrupted,
        )


def _described(subject: Subject, pipeline: Stopwatch) -> dict[str, Any]:
    """The subject as it was resolved, its engines open; of paths, the last part."""
    plan = pipeline.plan(subject.request)
    return {
        **subject.to_json(),
        "bundle": subject.bundle.name,
        "source": pipeline.bundle.manifest.source,
        "dtype": pipeline.bundle.manifest.dtype,
        "size": str(plan.request.size),
        "sampler": plan.schedule.sampler,
        "rows": max(plan.row_counts),
    }


def _cold(subject: Subject, progress: Progress) -> tuple[Cold, ...]:
    progress("cold", 0, 1)
    found = cold_starts(subject)
    progress("cold", 1, 1)
    return found


def _warm(
    pipeline: Stopwatch, request: Request, plan: Plan, progress: Progress
) -> tuple[list[Stages], GpuState | None]:
    """The stages of every picture after the warm-up, and the engines' NVIDIA GPU's state then."""
    found: list[Stages] = []
    for _ in range(_WARM_UP):
        pipeline.picture(request)

    def draw() -> tuple[float, ...]:
        progress("warm", min(len(found), plan.runs), plan.runs + 1)
        stages, _ = pipeline.picture(request)
        found.append(stages)
        step = float(np.median(stages.steps))
        return stages.total, stages.text, step, stages.decode, stages.own

    with GpuWatch() as watch:
        until_settled(draw, least=plan.runs, limit=plan.limit)
    progress("warm", plan.runs + 1, plan.runs + 1)
    on_gpu = any(backend(name).device == "cuda" for name in pipeline.engines.values())
    return found, watch.state if on_gpu else None


def _rows(stages: Sequence[Stages]) -> dict[str, Samples]:
    rows = {
        "picture": [(s.total,) for s in stages],
        "text": [(s.text,) for s in stages],
        "step": [s.steps for s in stages],
        "decode": [(s.decode,) for s in stages],
        "own": [(s.own,) for s in stages],
    }
    for component in dict.fromkeys(chain.from_iterable(s.calls for s in stages)):
        rows[f"{component} call"] = [s.calls[component] for s in stages if component in s.calls]
    return {name: Samples(tuple(pictures)) for name, pictures in rows.items()}


def _serving(plan: Plan, picture: float, rows: int) -> Serving:
    """What the plan has time for; `picture` is a warm one's seconds, `rows` those of its calls."""
    if plan.requests is not None:
        return Serving(plan.batches, plan.requests)
    return Serving.within(plan.limit, picture, rows, plan.batches)


def _served(
    pipeline: Stopwatch, request: Request, serving: Serving, progress: Progress
) -> tuple[Goodput, ...]:
    if not serving.batches:
        return ()
    requests = [request.with_values(seed=n) for n in range(serving.requests)]
    return tuple(
        serve(
            pipeline,
            requests,
            serving.batches,
            repeats=REPEATS,
            progress=partial(progress, "together"),
        )
    )


def _arrivals(
    pipeline: Stopwatch, request: Request, picture: float, plan: Plan, progress: Progress
) -> tuple[Curve, ...]:
    if not plan.arrivals:
        return ()
    heard = partial(progress, "arrivals")
    return curves(pipeline, request, picture, count=plan.arrivals, progress=heard)


def _errors(pipeline: Stopwatch) -> tuple[dict[str, float], float | None]:
    """Relative errors against the goldens, and the picture's PSNR; nothing without goldens."""
    if not pipeline.bundle.manifest.has_goldens:
        return {}, None
    found = compare(pipeline)
    errors = {row.name: row.difference.relative for row in found.components}
    errors["steps"] = max(row.difference.relative for row in found.steps)
    return errors, found.picture_psnr
