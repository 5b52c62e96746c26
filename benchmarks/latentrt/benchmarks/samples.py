"""Measured seconds, and the ratio of two sets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

SAME: Final = 0.03
"""Ratios that are nearer to 1 than this are called the same."""

Verdict = Literal["faster", "slower", "the same"]


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds of one quantity, in the order in which they were measured; at least one."""

    seconds: tuple[float, ...]

    @staticmethod
    def of(seconds: Sequence[float]) -> Samples:
        """Of seconds that were measured."""
        return Samples(tuple(map(float, seconds)))

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Samples:
        """From what `to_json` gave; raises `KeyError`, `TypeError` or `ValueError`."""
        found = Samples.of(value["seconds"])
        if not found.seconds or min(found.seconds) <= 0:
            raise ValueError("seconds that are missing or not above 0")
        return found

    @property
    def median(self) -> float:
        """The 50th percentile."""
        return self.percentile(50)

    def percentile(self, percent: float) -> float:
        """Linear interpolation between the two nearest samples."""
        return float(np.percentile(self.seconds, percent))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object: n, median, p10, p90, and every sample to a tenth of a microsecond."""
        return {
            "n": len(self.seconds),
            "median": self.median,
            "p10": self.percentile(10),
            "p90": self.percentile(90),
            "seconds": [round(each, 7) for each in self.seconds],
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast as a reference: a ratio of medians, and one of quartiles.

    `low` is the reference's first quartile over the other's third, `high` the reverse: 1 lies
    between them exactly where the quartiles of both overlap.
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(reference: Samples, other: Samples) -> Ratio:
        """Above 1 where `other` is faster."""
        return Ratio(
            reference.median / other.median,
            reference.percentile(25) / other.percentile(75),
            reference.percentile(75) / other.percentile(25),
        )

    @property
    def verdict(self) -> Verdict:
        """The same within 3 %, or where the quartiles overlap."""
        if abs(self.median - 1) <= SAME or self.low <= 1 <= self.high:
            return "the same"
        return "faster" if self.median > 1 else "slower"

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "verdict": self.verdict}
