"""How far an engine call is from what the machine could do at best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from latentrt.benchmarks.ceilings import Ceilings
from latentrt.benchmarks.operations import work_of
from latentrt.engines.engine import Blueprint

_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2}


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
