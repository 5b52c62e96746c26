"""How fast a bundle draws here: cold, warm, by stage, together with others, and beside the limit.

`measure` is what `latentrt bench` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from latentrt.benchmarks.arrivals import Curve, curves
from latentrt.benchmarks.batching import Goodput
from latentrt.benchmarks.batching import measure as serve
from latentrt.benchmarks.ceilings import Ceilings, ceilings
from latentrt.benchmarks.cold import Cold, cold_starts
from latentrt.benchmarks.compare import compare
from latentrt.benchmarks.limits import Limit, limit_of
from latentrt.benchmarks.machine import Machine, load
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.nvml import gpu_state
from latentrt.benchmarks.report import Report
from latentrt.benchmarks.samples import LEAST, Samples, settled
from latentrt.benchmarks.stopwatch import Stages, Stopwatch
from latentrt.benchmarks.subject import Subject
from latentrt.bundle.errors import Unavailable
from latentrt.engines.backends import choose
from latentrt.engines.engine import Blueprint
from latentrt.runtime import Request

Progress = Callable[[str, int, int], None]
"""Told of a stage, how many of its parts are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure beside the warm picture itself.

    `runs` are the least, `limit` the seconds after which no more are made though they do not
    agree; `batches` are the batcher's sizes, each served `requests`; `arrivals` the requests of
    each rate of arrival, or 0 for none.
    """

    runs: int = LEAST
    limit: float = 120.0
    cold: bool = True
    ceilings: bool = True
    batches: tuple[int, ...] = (1, 2, 4, 8)
    requests: int = 16
    arrivals: int = 0


def measure(subject: Subject, plan: Plan, progress: Progress) -> Report:
    """Measure a subject on this machine; what it opens is closed again.

    Raises what `Pipeline.open` and a run raise.
    """
    gpus, loads = {"before": gpu_state()}, {"before": load()}
    cold = _cold(subject, progress) if plan.cold else ()
    with subject.open() as pipeline:
        stages = _warm(pipeline, subject.request, plan, progress)
        sizes = pipeline.sizes
        memory = Memory.here()
        rows = _rows(stages)
        together = _served(pipeline, subject.request, plan, progress)
        arriving = _arrivals(pipeline, subject.request, rows, plan, progress)
        heights, limits, problem = _limits(pipeline, sizes, rows, plan, progress)
        errors, psnr = _errors(pipeline)
        gpus["after"], loads["after"] = gpu_state(), load()
        problems = [*(f"cold start: {c.problem}" for c in cold if c.problem), problem]
        if not errors:
            problems.append("no goldens in this bundle: how far off the engines are is not known")
        return Report(
            subject=_described(subject, pipeline),
            engines=pipeline.engines,
            precisions=pipeline.precisions,
            machine=Machine.here(),
            load=loads,
            gpu={when: state for when, state in gpus.items() if state is not None},
            rows=rows,
            memory=memory,
            cold=cold,
            ceilings=heights,
            limits=limits,
            served=together,
            arrivals=arriving,
            errors=errors,
            picture_psnr=psnr,
            notes=tuple(each for each in problems if each),
        )


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
    }


def _cold(subject: Subject, progress: Progress) -> tuple[Cold, ...]:
    progress("cold", 0, 1)
    found = cold_starts(subject)
    progress("cold", 1, 1)
    return found


def _warm(pipeline: Stopwatch, request: Request, plan: Plan, progress: Progress) -> list[Stages]:
    """The stages of every picture after the warm-up."""
    found: list[Stages] = []

    def draw() -> float:
        progress("warm", min(len(found), plan.runs), plan.runs + 1)
        stages, _ = pipeline.picture(request)
        found.append(stages)
        return stages.total

    count = len(settled(draw, least=plan.runs, limit=plan.limit))
    progress("warm", plan.runs + 1, plan.runs + 1)
    return found[-count:]


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


def _served(
    pipeline: Stopwatch, request: Request, plan: Plan, progress: Progress
) -> tuple[Goodput, ...]:
    if not plan.batches:
        return ()
    progress("together", 0, 1)
    requests = [request.with_values(seed=n) for n in range(plan.requests)]
    found = serve(pipeline, requests, plan.batches, repeats=3)
    progress("together", 1, 1)
    return tuple(found)


def _arrivals(
    pipeline: Stopwatch,
    request: Request,
    rows: Mapping[str, Samples],
    plan: Plan,
    progress: Progress,
) -> tuple[Curve, ...]:
    if not plan.arrivals:
        return ()
    progress("arrivals", 0, 1)
    picture = rows["picture"].percentile(50)
    found = curves(pipeline, request, picture, count=plan.arrivals)
    progress("arrivals", 1, 1)
    return found


def _limits(
    pipeline: Stopwatch,
    sizes: Mapping[str, Mapping[str, int]],
    rows: Mapping[str, Samples],
    plan: Plan,
    progress: Progress,
) -> tuple[dict[str, Ceilings], dict[str, Limit], str]:
    """Ceilings by engine and precision, limits by component, and why there are none."""
    if not plan.ceilings:
        return {}, {}, ""
    heights: dict[str, Ceilings] = {}
    limits: dict[str, Limit] = {}
    bundle = pipeline.bundle
    called = [name for name in pipeline.engines if f"{name} call" in rows]
    try:
        for done, name in enumerate(called):
            progress("ceilings", done, len(called))
            precision = pipeline.precisions[name]
            options = replace(pipeline.options, precision=precision)
            chosen = choose(pipeline.engines[name], options, bundle.manifest.dtype)
            key = f"{chosen.name} {precision}"
            if key not in heights:
                heights[key] = ceilings(chosen, bundle.manifest.dtype)
            blueprint = Blueprint.of(bundle, name, sizes[name])
            seconds = rows[f"{name} call"].percentile(50)
            limits[name] = limit_of(blueprint, precision, seconds, heights[key])
    except Unavailable as error:
        return {}, {}, str(error)
    progress("ceilings", len(called), len(called))
    return heights, limits, ""


def _errors(pipeline: Stopwatch) -> tuple[dict[str, float], float | None]:
    """Relative errors against the goldens, and the picture's PSNR; nothing without goldens."""
    if not pipeline.bundle.manifest.has_goldens:
        return {}, None
    found = compare(pipeline)
    errors = {row.name: row.difference.relative for row in found.components}
    errors["steps"] = max(row.difference.relative for row in found.steps)
    return errors, found.picture_psnr
