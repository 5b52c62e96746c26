"""How near engine calls come to the machine's ceilings: the roofline of each component."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from latentrt.benchmarks.latency.ceilings import Ceilings, ceilings_apart
from latentrt.benchmarks.latency.notes import Notes
from latentrt.benchmarks.latency.operations import work_of
from latentrt.benchmarks.latency.timed_pipeline import TimedPipeline
from latentrt.benchmarks.samples import Samples
from latentrt.engines.engine import Blueprint

_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True)
class Roofline:
    """One component's call beside the ceilings.

    `operations` and `weights` (numbers) are those of one call, `rate` operations a second. `least`
    is the seconds that the ceilings allow: those of the arithmetic, or of reading every weight once
    if that is longer; `bound` says which ("arithmetic", "memory"). `share` is `least` over the
    seconds that the call took.
    """

    operations: int
    weights: int
    rate: float
    least: float
    share: float
    bound: str


def roofline_of(
    blueprint: Blueprint, precision: str, seconds: float, ceilings: Ceilings
) -> Roofline:
    """Of a call that took `seconds`; raises what `work_of` raises.

    Where the bandwidth is not known, the arithmetic alone counts.
    """
    work = work_of(blueprint)
    arithmetic = work.operations / ceilings.rate
    reading = work.weights * _BYTES[precision] / (ceilings.bandwidth or float("inf"))
    least = max(arithmetic, reading)
    return Roofline(
        operations=work.operations,
        weights=work.weights,
        rate=work.operations / seconds,
        least=least,
        share=least / seconds,
        bound="arithmetic" if arithmetic >= reading else "memory",
    )


def measure_ceilings(
    pipeline: TimedPipeline, notes: Notes, progress: Callable[[int, int], None]
) -> dict[str, Ceilings]:
    """Of every engine and precision that the pipeline called; a failure is a note."""
    dtype = pipeline.bundle.manifest.dtype
    pairs = {
        _key(pipeline, n): (pipeline.engines[n], pipeline.precisions[n]) for n in pipeline.sizes
    }
    found: dict[str, Ceilings] = {}
    for done, (key, pair) in enumerate(pairs.items()):
        progress(done, len(pairs))
        one = notes.part(f"ceilings of {key}", lambda p=pair: ceilings_apart(*p, dtype), None)
        if one is not None:
            found[key] = one
    progress(len(pairs), len(pairs))
    return found


def rooflines(
    pipeline: TimedPipeline,
    sizes: Mapping[str, Mapping[str, int]],
    rows: Mapping[str, Samples],
    found: Mapping[str, Ceilings],
    notes: Notes,
) -> dict[str, Roofline]:
    """By component, of those that were called and whose ceilings are known.

    A call above its roofline is a note.
    """
    made: dict[str, Roofline] = {}
    for name in pipeline.engines:
        ceilings, row = found.get(_key(pipeline, name)), rows.get(f"{name} call")
        if ceilings is None or row is None:
            continue

        def one(n: str = name, c: Ceilings = ceilings, seconds: float = row.median) -> Roofline:
            blueprint = Blueprint.of(pipeline.bundle, n, sizes[n])
            return roofline_of(blueprint, pipeline.precisions[n], seconds, c)

        roofline = notes.part(f"roofline of {name}", one, None)
        if roofline is None:
            continue
        made[name] = roofline
        if roofline.share > 1:
            notes.add(
                f"{name} call: {roofline.share:.0%} of its roofline; ceilings are those of matrix "
                "products, and a convolution may take fewer operations than are counted"
            )
    return made


def _key(pipeline: TimedPipeline, component: str) -> str:
    """The name of a component's ceilings."""
    return f"{pipeline.engines[component]} {pipeline.precisions[component]}"
