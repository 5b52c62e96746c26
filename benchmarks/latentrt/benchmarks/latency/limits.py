"""How far engine calls are from what the machine could do at best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from latentrt.benchmarks.latency.ceilings import Ceilings, ceilings_apart
from latentrt.benchmarks.latency.operations import work_of
from latentrt.benchmarks.latency.samples import Samples
from latentrt.benchmarks.latency.stopwatch import Stopwatch
from latentrt.benchmarks.notes import Notes
from latentrt.engines.engine import Blueprint

_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2}

Heights = Mapping[str, Ceilings]
"""Ceilings by engine and precision."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One component's call: its work, and how fast that was done.

    `operations` are of one call, `rate` those a second that were reached. `least` is the seconds
    that the ceilings allow (the roofline: arithmetic or one reading of every weight, whichever
    takes longer; arithmetic alone where the bandwidth is not known), `share` that part of the
    seconds that it took; `bound` says which of the two.
    """

    operations: int
    weights: int
    rate: float
    least: float
    share: float
    bound: str


def limit_of(blueprint: Blueprint, precision: str, seconds: float, ceilings: Ceilings) -> Limit:
    """Where a call that took `seconds` stands; raises what `work_of` raises."""
    work = work_of(blueprint)
    arithmetic = work.operations / ceilings.rate
    reading = 0.0  # where the bandwidth is not known, arithmetic alone limits
    if ceilings.bandwidth is not None:
        reading = work.weights * _BYTES[precision] / ceilings.bandwidth
    least = max(arithmetic, reading)
    return Limit(
        operations=work.operations,
        weights=work.weights,
        rate=work.operations / seconds,
        least=least,
        share=least / seconds,
        bound="arithmetic" if arithmetic >= reading else "memory",
    )


def heights(
    pipeline: Stopwatch, notes: Notes, progress: Callable[[int, int], None]
) -> dict[str, Ceilings]:
    """Of every engine and precision that the pipeline was asked for; what fails is a note.

    `progress` is told how many are done, and how many there are.
    """
    dtype = pipeline.bundle.manifest.dtype
    keys = {_key(pipeline, name): name for name in pipeline.sizes}
    found: dict[str, Ceilings] = {}
    for done, (key, name) in enumerate(keys.items()):
        progress(done, len(keys))
        height = notes.part(
            f"no ceiling of {key}", lambda n=name: _height(pipeline, n, dtype), None
        )
        if height is not None:
            found[key] = height
    progress(len(keys), len(keys))
    return found


def _height(pipeline: Stopwatch, component: str, dtype: str) -> Ceilings:
    return ceilings_apart(pipeline.chosen[component], dtype)


def greatest(before: Heights, after: Heights) -> dict[str, Ceilings]:
    """Of two moments the greater of each: what was reached once is no more than can be."""
    found = dict(before)
    for key, height in after.items():
        found[key] = height.or_greater(found[key]) if key in found else height
    return found


def limits(
    pipeline: Stopwatch,
    sizes: Mapping[str, Mapping[str, int]],
    rows: Mapping[str, Samples],
    found: Heights,
    notes: Notes,
) -> dict[str, Limit]:
    """By component, of those that were called and whose ceiling is known.

    A call that was faster than its limit is a note.
    """
    known = {
        name: found[_key(pipeline, name)]
        for name in pipeline.engines
        if f"{name} call" in rows and _key(pipeline, name) in found
    }

    def one(name: str) -> Limit:
        blueprint = Blueprint.of(pipeline.bundle, name, sizes[name])
        seconds = rows[f"{name} call"].percentile(50)
        return limit_of(blueprint, pipeline.precisions[name], seconds, known[name])

    made = {n: notes.part(f"no limit of {n}", lambda n=n: one(n), None) for n in known}
    told = {name: limit for name, limit in made.items() if limit is not None}
    for name, limit in told.items():
        if limit.share > 1:
            notes.add(
                f"{name} call: {limit.share:.0%} of its limit, which is of products of matrices "
                "before and after: a convolution may take fewer operations than are counted"
            )
    return told


def _key(pipeline: Stopwatch, component: str) -> str:
    """The name of a component's ceiling."""
    return f"{pipeline.engines[component]} {pipeline.precisions[component]}"
