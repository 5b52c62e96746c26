"""How fast a bundle draws here: cold, warm, by stage, together with others, and beside the limit.

`measure` is what `latentrt bench` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

from latentrt.benchmarks.arrivals import Curve, curves
from latentrt.benchmarks.batching import BATCHES, REPEATS, Goodput, Serving
from latentrt.benchmarks.batching import measure as serve
from latentrt.benchmarks.ceilings import Ceilings, ceilings
from latentrt.benchmarks.cold import Cold, cold_starts
from latentrt.benchmarks.compare import compare
from latentrt.benchmarks.limits import Limit, limit_of
from latentrt.benchmarks.machine import Machine, load
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.nvml import GpuState, GpuWatch
from latentrt.benchmarks.report import Report
from latentrt.benchmarks.samples import LEAST, Samples, settled
from latentrt.benchmarks.stopwatch import Stages, Stopwatch
from latentrt.benchmarks.subject import Subject
from latentrt.bundle.errors import InputError, LatentrtError
from latentrt.engines.backends import choose
from latentrt.engines.engine import Blueprint
from latentrt.runtime import Request

Progress = Callable[[str, int, int], None]
"""Told of a stage, how many of its parts are done, and how many there are."""

_WARM_UP: Final = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure beside the warm picture itself.

    `runs` are the least, `limit` the seconds after which no more are made though they do not
    agree; `batches` are the batcher's sizes, in U-Net rows, each served `requests`, or, where that
    is None, as many as `limit` has time for; `arrivals` the requests of each rate of arrival, or 0
    for none. Raises `InputError` for a number that is too small.
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

    Once the warm pictures are drawn, what goes wrong is a note of the report. Before, raises what
    `Pipeline.open` and a run raise.
    """
    loads = {"before": load()}
    cold = _cold(subject, progress) if plan.cold else ()
    notes = [f"cold start: {each.problem}" for each in cold if each.problem]
    with subject.open() as pipeline:
        stages, gpu = _warm(pipeline, subject.request, plan, progress)
        # Before anything else adds to them.
        sizes, memory, rows = pipeline.sizes, Memory.here(), _rows(stages)
        described = _described(subject, pipeline)
        picture = rows["picture"].percentile(50)
        serving = _serving(plan, picture, described["rows"])
        if serving.note:
            notes.append(serving.note)
        together: tuple[Goodput, ...] = ()
        with _noted("served together", notes):
            together = _served(pipeline, subject.request, serving, progress)
        arriving: tuple[Curve, ...] = ()
        with _noted("arriving at random", notes):
            arriving = _arrivals(pipeline, subject.request, picture, plan, progress)
        heights = _ceilings(pipeline, rows, progress, notes) if plan.ceilings else {}
        limits = _limits(pipeline, sizes, rows, heights, notes)
        errors: dict[str, float] = {}
        psnr: float | None = None
        with _noted("how far off the engines are is not known", notes):
            errors, psnr = _errors(pipeline)
        if not pipeline.bundle.manifest.has_goldens:
            notes.append("no goldens in this bundle: how far off the engines are is not known")
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
            ceilings=heights,
            limits=limits,
            served=together,
            arrivals=arriving,
            errors=errors,
            picture_psnr=psnr,
            notes=tuple(notes),
        )


@contextmanager
def _noted(what: str, notes: list[str]) -> Generator[None]:
    """What goes wrong in the block becomes a note: what was measured before is worth more."""
    try:
        yield
    except LatentrtError as error:
        notes.append(f"{what}: {error}")


def _described(subject: Subject, pipeline: Stopwatch) -> dict[str, Any]:
    """The subject as it was resolved; of paths, the last part."""
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
    """The stages of every picture after the warm-up, and the GPU's state meanwhile."""
    found: list[Stages] = []
    progress("warm", 0, plan.runs + 1)
    for _ in range(_WARM_UP):
        pipeline.picture(request)

    def draw() -> float:
        progress("warm", min(len(found), plan.runs), plan.runs + 1)
        stages, _ = pipeline.picture(request)
        found.append(stages)
        return stages.total

    with GpuWatch() as watch:
        settled(draw, warm_up=0, least=plan.runs, limit=plan.limit)
    progress("warm", plan.runs + 1, plan.runs + 1)
    return found, watch.state


def _rows(stages: Sequence[Stages]) -> dict[str, Samples]:
    rows = {
        "picture": [s.total for s in stages],
        "text": [s.text for s in stages],
        "step": list(chain.from_iterable(s.steps for s in stages)),
        "decode": [s.decode for s in stages],
        "own": [s.own for s in stages],
    }
    for component in dict.fromkeys(chain.from_iterable(s.calls for s in stages)):
        calls = chain.from_iterable(s.calls.get(component, ()) for s in stages)
        rows[f"{component} call"] = list(calls)
    return {name: Samples(tuple(seconds)) for name, seconds in rows.items()}


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
            progress=lambda done, total: progress("together", done, total),
        )
    )


def _arrivals(
    pipeline: Stopwatch, request: Request, picture: float, plan: Plan, progress: Progress
) -> tuple[Curve, ...]:
    if not plan.arrivals:
        return ()
    return curves(
        pipeline,
        request,
        picture,
        count=plan.arrivals,
        progress=lambda done, total: progress("arrivals", done, total),
    )


def _ceilings(
    pipeline: Stopwatch, rows: Mapping[str, Samples], progress: Progress, notes: list[str]
) -> dict[str, Ceilings]:
    """By engine and precision, of the components that were called."""
    dtype = pipeline.bundle.manifest.dtype
    called = [name for name in pipeline.engines if f"{name} call" in rows]
    keys = {_key(pipeline, name): name for name in called}
    found: dict[str, Ceilings] = {}
    for done, (key, name) in enumerate(keys.items()):
        progress("ceilings", done, len(keys))
        options = replace(pipeline.options, precision=pipeline.precisions[name])
        with _noted(f"no ceiling of {key}", notes):
            found[key] = ceilings(choose(pipeline.engines[name], options, dtype), dtype)
    progress("ceilings", len(keys), len(keys))
    return found


def _limits(
    pipeline: Stopwatch,
    sizes: Mapping[str, Mapping[str, int]],
    rows: Mapping[str, Samples],
    heights: Mapping[str, Ceilings],
    notes: list[str],
) -> dict[str, Limit]:
    """By component, of those that were called and whose ceiling is known."""
    found: dict[str, Limit] = {}
    for name, precision in pipeline.precisions.items():
        key = _key(pipeline, name)
        if key not in heights or f"{name} call" not in rows:
            continue
        with _noted(f"no limit of {name}", notes):
            blueprint = Blueprint.of(pipeline.bundle, name, sizes[name])
            seconds = rows[f"{name} call"].percentile(50)
            found[name] = limit_of(blueprint, precision, seconds, heights[key])
    return found


def _key(pipeline: Stopwatch, component: str) -> str:
    """The name of a component's ceiling."""
    return f"{pipeline.engines[component]} {pipeline.precisions[component]}"


def _errors(pipeline: Stopwatch) -> tuple[dict[str, float], float | None]:
    """Relative errors against the goldens, and the picture's PSNR; nothing without goldens."""
    if not pipeline.bundle.manifest.has_goldens:
        return {}, None
    found = compare(pipeline)
    errors = {row.name: row.difference.relative for row in found.components}
    errors["steps"] = max(row.difference.relative for row in found.steps)
    return errors, found.picture_psnr
