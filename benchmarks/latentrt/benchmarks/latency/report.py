"""What a benchmark found, as `latentrt bench` prints, stores and compares it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from latentrt.benchmarks.latency.batching import Goodput
from latentrt.benchmarks.latency.ceilings import Ceilings
from latentrt.benchmarks.latency.cold import Cold
from latentrt.benchmarks.latency.goodput import Curve, gain_to_json
from latentrt.benchmarks.latency.limits import Limit
from latentrt.benchmarks.latency.nvml import GpuState
from latentrt.benchmarks.latency.samples import Samples
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.numerics.comparison import finite

SCHEMA: Final = "latentrt-bench-2"
"""1 had the runs of a row without their pictures, seconds of all requests that were served together
and one path of arrivals."""
STAGES: Final = ("picture", "text", "step", "decode", "own")
"""Rows of a warm picture: all of it, its parts, and what of it is outside engines."""
_ERRORS: Final = {"text": "prompts", "step": "steps", "decode": "vae_decoder"}
"""Whose error is that of a part of a picture."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found; what was not asked for, or cannot be known, is empty.

    `rows` are seconds: of a warm picture's `STAGES`, and of an engine call by component
    ("unet call"). `gpu` is an NVIDIA GPU's state while those pictures were drawn. `errors` are
    relative, by component and for the worst step; `picture_psnr` in dB, infinite for equal
    pictures; all are of the goldens. `notes` say what is missing, and why; `interrupted` that
    somebody wanted no more of it.
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
    interrupted: bool = False

    @property
    def own_share(self) -> float:
        """The runtime's own part of a picture's time, medians of both."""
        return self.rows["own"].percentile(50) / self.rows["picture"].percentile(50)

    @property
    def runs(self) -> dict[str, tuple[tuple[float, ...], ...]]:
        """The seconds of every row, run by run.

        Of the rows of a warm picture a run is a picture, of those of pictures served together it is
        a picture's share of a repetition.
        """
        cold = {f"cold, {each.name}": ((each.total,),) for each in self.cold if each.total}
        together = {f"served, {row.name}": tuple((s,) for s in row.seconds) for row in self.served}
        return {**{name: row.pictures for name, row in self.rows.items()}, **together, **cold}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `docs/bench.schema.json` says what is in it."""
        psnr = {} if self.picture_psnr is None else {"picture_psnr": self.picture_psnr}
        return {
            "schema": SCHEMA,
            **asdict(self),
            "rows": {name: row.to_json() for name, row in self.rows.items()},
            "arrivals": [curve.to_json() for curve in self.arrivals],
            "goodput_gain": gain_to_json(self.arrivals),
            "errors": finite(self.errors),
            **finite(psnr),
            "own_share": self.own_share,
            "runs": {name: _rounded(runs) for name, runs in self.runs.items()},
        }


def _rounded(runs: Sequence[Sequence[float]]) -> list[list[float]]:
    """In tenths of microseconds."""
    return [[round(seconds, 7) for seconds in run] for run in runs]


def error_of(row: str, errors: Mapping[str, float | None], psnr: float | None) -> float | None:
    """How far from PyTorch's fp32 what a row times is, relative; None where nobody knows.

    Of a picture it is relative to the range of colours. Arguments are as in `error_beside`.
    """
    if row == "picture" and errors:
        return 0.0 if psnr is None else 10 ** (-psnr / 20)
    name = _ERRORS.get(row, row.removesuffix(" call"))
    if name not in errors or name == row:
        return None
    error = errors[name]
    return math.inf if error is None else error


def error_beside(row: str, errors: Mapping[str, float | None], psnr: float | None) -> str:
    """The same in words; nothing where nobody knows.

    It is relative: of an engine's calls, of the prompts' text, of steps, the worst. Of the picture
    of the goldens' run, which is not the one that is timed, it is in dB. `errors` and `psnr` are as
    in a report or, what is not finite being None there, in its JSON.
    """
    error = error_of(row, errors, psnr)
    if error is None:
        return ""
    if row == "picture":
        found = "equal" if psnr is None or math.isinf(psnr) else f"{psnr:.0f} dB"
        return f"{found} (golden)"
    return f"{error:.1e}" if math.isfinite(error) else "not finite"
