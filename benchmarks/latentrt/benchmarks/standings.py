"""How a contest ended: a row for everybody, the ratio to the reference before the seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

SCHEMA: Final = "latentrt-contest-1"
GUARD: Final = 40.0
"""Decibels from the reference's picture that an fp32 contestant has to reach: the same picture."""
_APART: Final = 0.1
"""Farther than this from what its script takes alone, a peer was not measured at its best."""
_BUSY: Final = 0.5
"""Load for each core from which on a contest is called disturbed."""
_RESAMPLES: Final = 10_000
_COLUMNS: Final = ("text", "unet", "decode", "own")


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast as the reference: the median, and where it lies with 95 %.

    Over pairs of pictures drawn in one round; by the bootstrap's percentiles (Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993, chapter 13).
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(ratios: Sequence[float]) -> Ratio:
        """Of at least one pair."""
        values = np.array(ratios)
        picks = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
        low, high = np.percentile(np.median(values[picks], axis=1), (2.5, 97.5))
        return Ratio(statistics.median(ratios), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Row:
    """How a contestant did.

    `problem` says why it did not take part or did not finish, `remedy` what to do; then the rest is
    empty. `seconds` are those of each picture, `stages` the medians of their parts, with `own` what
    is in none of them; `start` the seconds from its process's start to the end of its first
    picture, `first` those of that picture; `rss_peak` is in bytes. `psnr` is its picture's distance
    in decibels from the reference's, None where the two are equal. `settings` and `versions` are
    what it said of itself. `alone` are the seconds of pictures that a peer's own script drew with
    nobody beside it, where that was measured.
    """

    name: str
    precision: str
    problem: str = ""
    remedy: str = ""
    seconds: tuple[float, ...] = ()
    ratio: Ratio | None = None
    stages: Mapping[str, float] | None = None
    start: float | None = None
    first: float | None = None
    rss_peak: int | None = None
    psnr: float | None = None
    settings: Mapping[str, str] | None = None
    versions: Mapping[str, str] | None = None
    alone: tuple[float, ...] = ()

    @property
    def median(self) -> float | None:
        """The median of its seconds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def beside(self) -> float | None:
        """How many times as long its picture took in the contest as alone, by the medians."""
        if not self.alone or self.median is None:
            return None
        return self.median / statistics.median(self.alone)

    @property
    def apart(self) -> bool:
        """Whether those two differ by more than a tenth."""
        return self.beside is not None and abs(self.beside - 1.0) > _APART

    @property
    def strays(self) -> bool:
        """Whether it computes in fp32 and drew another picture than the reference."""
        return self.precision == "fp32" and self.psnr is not None and self.psnr < GUARD

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        derived = ("median", "strays", "beside", "apart")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


@dataclass(frozen=True, slots=True)
class Standings:
    """A contest's rows, and under which conditions they came to be.

    `groups` names who was in memory together; `load` is the machine's over 1, 5 and 15 minutes,
    before and after.
    """

    reference: str
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, ...], ...]
    rounds: int
    warmups: int
    settings: Mapping[str, Any]
    source: str
    machine: Mapping[str, Any]
    load: Mapping[str, Sequence[float]]

    @property
    def disturbed(self) -> bool:
        """Whether others were at work when it began, which threads that wait for each other suffer
        from many times over: then neither seconds nor ratios are worth keeping.
        """
        before = self.load.get("before", ())
        return bool(before) and before[0] > _BUSY * self.machine.get("cores", 1)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "rows"}
        rows = [row.to_json() for row in self.rows]
        return {"schema": SCHEMA, **fields, "disturbed": self.disturbed, "rows": rows}

    def __str__(self) -> str:
        """An aligned table; below it, who is missing or went wrong, and how to mend it."""
        head = f"{'':<32}{'times as fast':>14}  {'95 %':<14}{'seconds':>9}  {'range':<18}"
        head += "".join(f"{name:>8}" for name in _COLUMNS) + f"{'dB':>7}{'start s':>9}{'GB':>7}"
        head += f"{'alone':>8}"
        ran = [row for row in self.rows if not row.problem]
        lines = [head, *(_line(row, row.name == self.reference) for row in ran)]
        for row in self.rows:
            if row.problem:
                lines.append(
                    f"{row.name}: {row.problem}" + (f"; {row.remedy}" if row.remedy else "")
                )
            elif row.strays:
                lines.append(f"{row.name}: draws another picture: {row.psnr:.1f} dB")
            elif row.apart:
                lines.append(f"{row.name}: {row.beside:.2f} times what its script takes alone")
        if self.disturbed:
            lines.append(f"others were at work (load {self.load['before'][0]:.1f}): hold it again")
        return "\n".join(lines)


def _line(row: Row, is_reference: bool) -> str:
    ratio, stages, median = row.ratio, row.stages or {}, row.median
    assert ratio is not None
    assert median is not None
    ends = "reference" if is_reference else f"{ratio.low:.2f} to {ratio.high:.2f}"
    spread = f"{min(row.seconds):.3f} to {max(row.seconds):.3f}"
    parts = "".join(_seconds(stages.get(name)) for name in _COLUMNS)
    decibels = "" if is_reference else "equal" if row.psnr is None else f"{row.psnr:.1f}"
    held = math.nan if row.rss_peak is None else row.rss_peak / 1e9
    speed = f"{row.name:<32}{ratio.median:14.2f}  {ends:<14}{median:9.3f}  {spread:<18}"
    alone = "" if row.beside is None else f"{row.beside:.2f}"
    return f"{speed}{parts}{decibels:>7}{row.start:9.1f}{held:7.2f}{alone:>8}"


def _seconds(value: float | None) -> str:
    return f"{'':>8}" if value is None else f"{value:8.3f}"
