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
"""How near to each other the last pictures have to be, relative to their median."""
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
        """Whether there are at least `LEAST` pictures and the last five agree within `SETTLED`.

        A picture's median stands for it.
        """
        return len(self.pictures) >= LEAST and _agree(self.medians[-_LAST:])

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
    """What `draw` gives, until of each of its numbers the last five agree within `SETTLED`.

    It draws a picture and gives the seconds of all of it, then of its parts. It is called at least
    `least` times, whatever that takes, then until they agree or have taken `limit` seconds
    together.
    """
    drawn: list[Sequence[float]] = []
    taken = 0.0
    while len(drawn) < least or not (_all_agree(drawn[-_LAST:]) or taken >= limit):
        drawn.append(draw())
        taken += drawn[-1][0]
    return tuple(drawn)


def _all_agree(last: Sequence[Sequence[float]]) -> bool:
    return all(map(_agree, zip(*last, strict=True)))


def _agree(last: Sequence[float]) -> bool:
    middle = float(np.median(last))
    return len(last) == _LAST and max(last) - min(last) <= SETTLED * middle
