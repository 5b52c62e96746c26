"""Results of latentrt beside other libraries: ratios to a reference, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from latentrt.benchmarks.samples import Ratio, Samples

SCHEMA: Final = "latentrt-peers-1"
PREFIX: Final = "latentrt-"
"""What the names of latentrt's own engines begin with."""
LEAST_PSNR: Final[Mapping[str, float]] = {
    # OpenVINO GenAI cuts colours off to 8 bits where others round: 51 dB, so 40 is no rounding.
    "fp32": 40.0,
    # latentrt's tolerance of 35 dB, less 6: on a GPU the reference rounds as well.
    "fp16": 29.0,
    # latentrt's tolerance.
    "bf16": 25.0,
}
"""Decibels from the reference's image at which the work was equal, by precision."""
_BUSY: Final = 0.25
"""Share of the cores at work for others from which on results are called disturbed."""
_STAGES: Final = ("text", "unet", "decode", "own")


@dataclass(frozen=True, slots=True)
class PeerResult:
    """What was measured of one library; with a `problem` all but the `remedy` is empty.

    `samples` are the seconds of an image in each round, `ratio` how many times as fast as the
    reference in the same rounds. `stages` are median seconds, `own` those outside models; `start`
    is from the start of the process to its first image, `memory` its peak in bytes. `psnr` is the
    image's distance from the reference's in dB, None where it is equal.
    """

    name: str
    precision: str
    problem: str = ""
    remedy: str = ""
    samples: Samples | None = None
    ratio: Ratio | None = None
    stages: Mapping[str, float] = field(default_factory=dict[str, float])
    start: float | None = None
    memory: int | None = None
    psnr: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def equal_work(self) -> bool:
        """Whether it drew the reference's image, as far as its precision allows."""
        return self.psnr is None or self.psnr >= LEAST_PSNR[self.precision]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            **asdict(self),
            "samples": None if self.samples is None else self.samples.to_json(),
            "ratio": None if self.ratio is None else self.ratio.to_json(),
            "equal_work": self.equal_work,
        }


@dataclass(frozen=True, slots=True)
class Results:
    """All results, and their conditions.

    `groups` names who was in memory together, for `rounds` turns each; `busy` is the share of the
    cores that other processes used between turns, None where it is not known.
    """

    reference: str
    rows: tuple[PeerResult, ...]
    groups: tuple[tuple[str, ...], ...]
    rounds: int
    settings: Mapping[str, Any]
    source: str
    machine: Mapping[str, Any]
    busy: float | None = None
    interrupted: bool = False

    @property
    def disturbed(self) -> bool:
        """Whether other processes used so much of the machine that the numbers are worth little."""
        return self.busy is not None and self.busy > _BUSY

    def to_json(self) -> dict[str, Any]:
        """As a JSON object (docs/peers.schema.json)."""
        rows = [row.to_json() for row in self.rows]
        settings, machine = dict(self.settings), dict(self.machine)
        stated = {"settings": settings, "machine": machine, "disturbed": self.disturbed}
        return {"schema": SCHEMA, **asdict(self), **stated, "rows": rows}

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Heads, and a row of text for each library that finished, the fastest first."""
        ran = [row for row in self.rows if row.samples is not None and row.ratio is not None]
        ran.sort(key=lambda row: -row.ratio.median if row.ratio else 0.0)
        heads = ("", f"times as fast as {self.reference}", "", "median", "p10", "p90")
        more = (*(f"{name} s" for name in _STAGES), "PSNR", "start", "peak memory")
        return (*heads, *more), [self._row(row) for row in ran]

    def remarks(self) -> list[str]:
        """A line for each library without a result or with other work, and on the conditions."""
        lines: list[str] = []
        for row in self.rows:
            if row.problem:
                remedy = f"; {row.remedy}" if row.remedy else ""
                lines.append(f"{row.name}: {row.problem}{remedy}")
            elif not row.equal_work:
                lines.append(
                    f"{row.name}: drew another image, {row.psnr:.1f} dB from the reference's"
                )
        if self.interrupted:
            lines.append("interrupted: later groups were skipped")
        if self.disturbed:
            lines.append(
                f"disturbed: other processes used {self.busy:.0%} of the cores; measure again"
            )
        return lines

    def __str__(self) -> str:
        heads, rows = self.table()
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (heads, *rows)
        ]
        return "\n".join((*lines, *self.remarks()))

    def _row(self, row: PeerResult) -> tuple[str, ...]:
        samples, ratio = row.samples, row.ratio
        assert samples is not None
        assert ratio is not None
        reference = row.name == self.reference
        stages = (f"{row.stages[n]:.3f}" if n in row.stages else "" for n in _STAGES)
        psnr = "" if reference else "equal" if row.psnr is None else f"{row.psnr:.1f} dB"
        return (
            row.name,
            "1" if reference else str(ratio),
            "" if reference else ratio.verdict,
            *(f"{samples.percentile(n):.3f} s" for n in (50, 10, 90)),
            *stages,
            psnr,
            "" if row.start is None else f"{row.start:.1f} s",
            "" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
        )


def medians(stages: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> dict[str, float]:
    """The median of each stage, and of what is in none of them as "own"; empty where not known."""
    if not stages or not stages[0]:
        return {}
    named = {name: Samples.of([each[name] for each in stages]).median for name in stages[0]}
    own = [whole - sum(each.values()) for whole, each in zip(seconds, stages, strict=True)]
    return {**named, "own": Samples.of(own).median}
