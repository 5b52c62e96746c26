"""How many times as fast one is as another, from pairs of what both took at the same time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_OUTSIDE: Final = 0.05
ENOUGH: Final = 6
"""Numbers from which on an interval says something: of six, least and greatest have the median
between them in 97 % of all cases (1 - 2 / 2**6); of five, in less than 95 %.
"""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast as another, or as slow: the median, and where it lies with 95 %.

    Over pairs of pictures drawn in one round. The ends are two of the ratios, as the sign test has
    it, whatever their distribution (Conover, Practical Nonparametric Statistics, 1999); of fewer
    than 6 pairs the least and the greatest, which is less sure.
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(ratios: Sequence[float]) -> Ratio:
        """Of at least one pair."""
        values = sorted(ratios)
        beyond = _beyond(len(values))
        return Ratio(statistics.median(values), values[beyond], values[-1 - beyond])


def _beyond(count: int) -> int:
    """How many of so many numbers lie beyond each end, the median between them with 95 %."""
    beyond, outside = 0, 1
    # Each number is above the median or not: 2**count cases, in `outside` at most `beyond` are.
    while 2 * (outside := outside + math.comb(count, beyond + 1)) <= _OUTSIDE * 2**count:
        beyond += 1
    return beyond
