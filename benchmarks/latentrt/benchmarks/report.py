"""What a benchmark found, as `latentrt bench` prints, stores and compares it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from latentrt.benchmarks.arrivals import Curve
from latentrt.benchmarks.batching import Goodput
from latentrt.benchmarks.ceilings import Ceilings
from latentrt.benchmarks.cold import Cold
from latentrt.benchmarks.comparison import finite
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
    ("unet call"). `gpu` is an NVIDIA GPU's state while those pictures were drawn. `errors` are
    relative, by component and for the worst step; `picture_psnr` in dB, infinite for equal
    pictures. `notes` say what is missing, and why.
    """

    subject: Mapping[str, Any]
    engines: Mapping[str, str]
    precisions: Mapping[str, str]
    machine: Machine
    load: Mapping[str, Sequence[float]]
    gpu: GpuState | None
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
        psnr = {} if self.picture_psnr is None else {"picture_psnr": self.picture_psnr}
        return {
            "schema": SCHEMA,
            **asdict(self),
            "rows": {name: row.to_json() for name, row in self.rows.items()},
            "errors": finite(self.errors),
            **finite(psnr),
            "own_share": self.own_share,
            "runs": {name: [round(s, 9) for s in each] for name, each in self.runs.items()},
        }


def error_beside(row: str, errors: Mapping[str, float | None], psnr: float | None) -> str:
    """How far from PyTorch's fp32 what a row times is, in words; nothing where nobody knows.

    Of an engine's calls and of steps, the worst, it is relative, of pictures in dB. `errors` and
    `psnr` are as in a report or, what is not finite being None there, in its JSON.
    """
    if row == "picture" and errors:
        return "equal" if psnr is None or math.isinf(psnr) else f"{psnr:.0f} dB"
    name = "steps" if row == "step" else row.removesuffix(" call")
    if name not in errors or name == row:
        return ""
    error = errors[name]
    return "not finite" if error is None else f"{error:.1e}"
