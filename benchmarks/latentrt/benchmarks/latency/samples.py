"""Measurements of one quantity: their percentiles, and whether they had settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np

LEAST: Final = 20
"""Pictures that a percentile is taken of, at the least."""
SETTLED: Final = 0.02
"""How near to each other five pictures in a row have to be, relative to their median."""
_LAST: Final = 5


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds by picture, after warm-up, in the order in which they were drawn.

    Each of `pictures` has all that was measured in it, one text or every step; there is at least
    one, and none is empty.
    """

    pictures: tuple[tuple[float, ...], ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        """Those of all pictures."""
        return tuple(chain.from_iterable(self.pictures))

    @property
    def medians(self) -> tuple[float, ...]:
        """Each picture's."""
        return tuple(float(np.median(picture)) for picture in self.pictures)

    @property
    def stable(self) -> bool:
        """Whether at some moment, the `LEAST`-th picture or later, the last five agreed.

        Within `SETTLED`; a picture's median stands for it. What was drawn after that moment, until
        other rows had theirs, makes nothing unstable.
        """
        medians = self.medians
        moments = range(LEAST, len(medians) + 1)
        return any(_agree(medians[moment - _LAST : moment]) for moment in moments)

    def percentile(self, percent: float) -> float:
        """Of all seconds, linearly between the two nearest; 50 is the median."""
        return float(np.percentile(self.seconds, percent))

    def to_json(self) -> dict[str, Any]:
        """The percentiles that people ask for, and of how much they are."""
        percentiles = {f"p{n}": self.percentile(n) for n in (50, 90, 99)}
        counts = {"count": len(self.seconds), "pictures": len(self.pictures)}
        return {**percentiles, **counts, "stable": self.stable}


def until_settled(
    draw: Callable[[], Sequence[float]], *, least: int = LEAST, limit: float
) -> tuple[Sequence[float], ...]:
    """What `draw` gives, until for each of its numbers the last five agreed within `SETTLED` once.

    It draws a picture and gives the seconds of all of it, then of its parts. It is called at least
    `least` times, whatever that takes, then until all had such a moment or pictures have taken
    `limit` seconds together.
    """
    drawn: list[Sequence[float]] = []
    settled: set[int] = set()
    taken = 0.0
    while len(drawn) < least or not (len(settled) == len(drawn[0]) or taken >= limit):
        drawn.append(draw())
        taken += drawn[-1][0]
        if len(drawn) >= least:
            parts = enumerate(zip(*drawn[-_LAST:], strict=True))
            settled.update(number for number, last in parts if _agree(last))
    return tuple(drawn)


def _agree(last: Sequence[float]) -> bool:
    middle = float(np.median(last))
    return len(last) == _LAST and max(last) - min(last) <= SETTLED * middle
