"""What a benchmark found, as `latentrt bench` prints, stores and compares it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from latentrt.benchmarks.arrivals import Curve
from latentrt.benchmarks.batching import Goodput
from latentrt.benchmarks.ceilings import Ceilings
from latentrt.benchmarks.cold import Cold
from latentrt.benchmarks.limits import Limit
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.nvml import GpuState
from latentrt.benchmarks.samples import Samples

SCHEMA: Final = "latentrt-bench-1"
STAGES: Final = ("picture", "text", "step", "decode", "own")
"""Rows of a warm picture: all of it, its parts, and what of it is outside engines."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found; what was not asked for, or cannot be known, is empty.

    `rows` are seconds: of a warm picture's `STAGES`, and of an engine call by component
    ("unet call"). `errors` are relative, by component and for the worst step; `picture_psnr` in dB.
    `notes` say what is missing, and why.
    """

    subject: Mapping[str, Any]
    engines: Mapping[str, str]
    precisions: Mapping[str, str]
    machine: Machine
    load: Mapping[str, Sequence[float]]
    gpu: Mapping[str, GpuState]
    rows: Mapping[str, Samples]
    memory: Memory
    cold: tuple[Cold, ...] = ()
    ceilings: Mapping[str, Ceilings] = field(default_factory=dict[str, Ceilings])
    limits: Mapping[str, Limit] = field(default_factory=dict[str, Limit])
    served: tuple[Goodput, ...] = ()
    arrivals: tuple[Curve, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict[str, float])
    picture_psnr: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def own_share(self) -> float:
        """The runtime's own part of a picture's time, medians of both."""
        return self.rows["own"].percentile(50) / self.rows["picture"].percentile(50)

    @property
    def runs(self) -> dict[str, tuple[float, ...]]:
        """The seconds of every row's runs, those of pictures served together among them."""
        cold = {f"cold, {'cached' if c.hit else 'built'}": (c.total,) for c in self.cold if c.total}
        together = {f"served, {row.name}": row.seconds for row in self.served}
        return {**{name: row.seconds for name, row in self.rows.items()}, **together, **cold}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `docs/bench.schema.json` says what is in it."""
        plain = asdict(self)
        rows = {name: row.to_json() for name, row in self.rows.items()}
        runs = {name: [round(s, 9) for s in seconds] for name, seconds in self.runs.items()}
        return {
            "schema": SCHEMA,
            **plain,
            "rows": rows,
            "own_share": self.own_share,
            "runs": runs,
        }
