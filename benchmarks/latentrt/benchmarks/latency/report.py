"""What `latentrt bench` found: data, and its JSON (docs/bench.schema.json)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from latentrt.benchmarks.latency.ceilings import Ceilings
from latentrt.benchmarks.latency.cold import ColdStart
from latentrt.benchmarks.latency.load import Arrivals, Throughput
from latentrt.benchmarks.latency.nvml import GpuState
from latentrt.benchmarks.latency.roofline import Roofline
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.samples import Samples

SCHEMA: Final = "latentrt-bench-3"
STAGES: Final = ("image", "text", "step", "decode", "runtime")
"""Rows of a warm image: all of it, its stages, and the runtime outside engine calls."""
_ERRORS: Final = {"text": "prompts", "step": "steps", "decode": "vae_decoder"}
"""Whose error belongs to a stage."""


@dataclass(frozen=True, slots=True)
class Errors:
    """How far engines are from the bundle's reference outputs, which are PyTorch's in fp32.

    `relative` are relative errors: of each component, of "prompts", and of the worst of "steps".
    `psnr` is the image's, in dB, infinite where it is equal.
    """

    relative: Mapping[str, float] = field(default_factory=dict[str, float])
    psnr: float | None = None

    def of(self, row: str) -> float | None:
        """Of what a row times, relative; None where it is not known. Of an image, its colours'."""
        if row == "image":
            return None if self.psnr is None else 10 ** (-self.psnr / 20)
        return self.relative.get(_ERRORS.get(row, row.removesuffix(" call")))

    def beside(self, row: str) -> str:
        """The same as text; empty where it is not known."""
        error = self.of(row)
        if error is None:
            return ""
        if row == "image":
            return "equal" if not error else f"{self.psnr:.0f} dB"
        return f"{error:.1e}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; null for an infinite number or NaN."""
        return {"relative": finite(self.relative), "psnr": _finite(self.psnr)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Errors:
        """From what `to_json` gave."""
        known = {n: math.inf if e is None else float(e) for n, e in value["relative"].items()}
        psnr = value["psnr"]
        if psnr is None and known:
            psnr = math.inf
        return Errors(known, psnr)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found; a part that was not measured is empty.

    `workload` is what was measured, resolved; `rows` are the seconds of `STAGES` and of the engine
    calls by component ("unet call"); `load` is the machine's load before and after. `notes` say
    what is missing and why.
    """

    workload: Mapping[str, Any]
    engines: Mapping[str, str]
    precisions: Mapping[str, str]
    machine: Machine
    load: Mapping[str, Sequence[float]]
    gpu: GpuState | None
    rows: Mapping[str, Samples]
    memory: Memory
    cold: tuple[ColdStart, ...] = ()
    ceilings: Mapping[str, Ceilings] = field(default_factory=dict[str, Ceilings])
    rooflines: Mapping[str, Roofline] = field(default_factory=dict[str, Roofline])
    throughput: tuple[Throughput, ...] = ()
    arrivals: tuple[Arrivals, ...] = ()
    errors: Errors = field(default_factory=Errors)
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def runtime_share(self) -> float:
        """The part of an image's time outside engine calls, a ratio of medians."""
        return self.rows["runtime"].median / self.rows["image"].median

    @property
    def compared(self) -> dict[str, Samples]:
        """The rows that may be compared with another report's."""
        waits = {f"throughput, {row.name}": row.waits for row in self.throughput}
        return {**self.rows, **waits}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "schema": SCHEMA,
            "kind": "report",
            **asdict(self),
            "rows": {name: row.to_json() for name, row in self.rows.items()},
            "throughput": [row.to_json() for row in self.throughput],
            "arrivals": [row.to_json() for row in self.arrivals],
            "errors": self.errors.to_json(),
            "runtime_share": self.runtime_share,
        }


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON has them: None for an infinite one or NaN."""
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
