"""Two benchmarks of one thing: how many times as fast, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

_RESAMPLES: Final = 10_000
_AT_ONCE: Final = 500
"""Resamples that are in memory together."""
_CONFIDENCE: Final = 95.0
ENOUGH: Final = 6
"""Runs from which on an interval says something: of six, least and greatest have the median between
them in 97 % of all cases (1 - 2 / 2**6); of five, in less than 95 %.
"""
SMALLEST: Final = 0.02
"""Changes that are surely below this are called the same."""

Word = Literal["faster", "slower", "same", "unsure"]
Runs = Mapping[str, Sequence[float]]
"""Seconds by row. A row with several values for each of "picture" has them picture by picture."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of now beside the same row of then.

    `ratio` is then's median over now's, above 1 where now is faster; 95 % of bootstrap resamples
    of both lie from `low` to `high`. `runs` are those of the benchmark that has fewer: a picture
    is one run of everything in it. `stable` is whether both rows had settled.
    """

    row: str
    ratio: float
    low: float
    high: float
    runs: int
    stable: bool = True

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "word": self.word}

    @property
    def word(self) -> Word:
        """The same if the interval is within 2 % of 1; unsure if it has 1 in it and is wider.

        Unsure too where either benchmark has fewer than `ENOUGH` runs.
        """
        if self.runs < ENOUGH:
            return "unsure"
        if self.low >= 1 - SMALLEST and self.high <= 1 + SMALLEST:
            return "same"
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "unsure"

    @property
    def remarks(self) -> str:
        """The word, and what to hold against it."""
        few = f"{self.runs} run{'s' if self.runs > 1 else ''}" if self.runs < ENOUGH else ""
        return ", ".join(filter(None, (self.word, few, "" if self.stable else "unstable")))


def verdicts(now: Runs, then: Runs, *, unstable: Collection[str] = ()) -> tuple[Verdict, ...]:
    """A verdict for each row that both have, from the seconds of their runs, in now's order.

    `unstable` are the rows that had not settled in either.
    """
    rows = (row for row in now if then.get(row))
    return tuple(_verdict(row, now, then, row not in unstable) for row in rows)


def _verdict(row: str, now: Runs, then: Runs, stable: bool) -> Verdict:
    rng = np.random.default_rng(0)
    samples = [_by_picture(row, runs) for runs in (then, now)]
    medians = [_medians(sample, rng) for sample in samples]
    spread = (100 - _CONFIDENCE) / 2
    low, high = np.percentile(medians[0] / medians[1], [spread, 100 - spread])
    ratio = float(np.median(samples[0]) / np.median(samples[1]))
    return Verdict(row, ratio, float(low), float(high), min(map(len, samples)), stable)


def _by_picture(row: str, runs: Runs) -> NDArray[np.float64]:
    """[runs, values of each]: the steps of one picture have its moment in common."""
    values = np.asarray(runs[row], np.float64)
    pictures = len(runs.get("picture", ()))
    several = pictures > 0 and len(values) % pictures == 0
    return values.reshape(pictures if several else len(values), -1)


def _medians(sample: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of resamples of whole runs, with replacement (Efron 1979), as many as there are."""
    count = len(sample)
    found = [
        np.median(sample[rng.integers(0, count, (_AT_ONCE, count))].reshape(_AT_ONCE, -1), axis=1)
        for _ in range(_RESAMPLES // _AT_ONCE)
    ]
    return np.concatenate(found)
