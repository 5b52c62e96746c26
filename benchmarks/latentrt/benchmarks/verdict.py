"""Two benchmarks of one thing: how many times as fast, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

_RESAMPLES: Final = 10_000
_CONFIDENCE: Final = 95.0
SMALLEST: Final = 0.02
"""Changes that are surely below this are called the same."""

Word = Literal["faster", "slower", "same", "unsure"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of now beside the same row of then.

    `ratio` is then's median over now's, above 1 where now is faster; 95 % of bootstrap resamples
    of both lie from `low` to `high`.
    """

    row: str
    ratio: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "word": self.word}

    @property
    def word(self) -> Word:
        """The same if the interval is within 2 % of 1; unsure if it has 1 in it and is wider."""
        if self.low >= 1 - SMALLEST and self.high <= 1 + SMALLEST:
            return "same"
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "unsure"


def verdicts(
    now: Mapping[str, Sequence[float]], then: Mapping[str, Sequence[float]]
) -> tuple[Verdict, ...]:
    """A verdict for each row that both have, from the seconds of their runs, in now's order."""
    return tuple(_verdict(row, now[row], then[row]) for row in now if then.get(row))


def _verdict(row: str, now: Sequence[float], then: Sequence[float]) -> Verdict:
    rng = np.random.default_rng(0)
    medians = [_medians(np.asarray(runs, np.float64), rng) for runs in (then, now)]
    spread = (100 - _CONFIDENCE) / 2
    low, high = np.percentile(medians[0] / medians[1], [spread, 100 - spread])
    return Verdict(row, float(np.median(then) / np.median(now)), float(low), float(high))


def _medians(runs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Medians of resamples as large as the sample, with replacement (Efron 1979)."""
    return np.median(rng.choice(runs, (_RESAMPLES, len(runs))), axis=1)
