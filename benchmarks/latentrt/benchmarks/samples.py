"""Measurements of one quantity: their percentiles, and whether they had settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

LEAST: Final = 20
"""Runs that a percentile is taken of, at the least."""
SETTLED: Final = 0.02
"""How near to each other the last runs have to be, relative to their median."""
_LAST: Final = 5


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds of runs after warm-up, in the order they were made; at least one."""

    seconds: tuple[float, ...]

    @property
    def stable(self) -> bool:
        """Whether there are at least `LEAST` runs and the last five agree within `SETTLED`."""
        return len(self.seconds) >= LEAST and _agree(self.seconds[-_LAST:])

    def percentile(self, percent: float) -> float:
        """Linearly interpolated between the two nearest runs; 50 is the median."""
        return float(np.percentile(self.seconds, percent))

    def to_json(self) -> dict[str, Any]:
        """The percentiles that people ask for, and how many runs they are of."""
        percentiles = {f"p{n}": self.percentile(n) for n in (50, 90, 99)}
        return {**percentiles, "count": len(self.seconds), "stable": self.stable}


def settled(
    run: Callable[[], float], *, warm_up: int = 2, least: int = LEAST, limit: float
) -> tuple[float, ...]:
    """What `run` gives, its seconds, until the last five agree within `SETTLED`.

    There are `warm_up` runs first, which are dropped, then at least `least`, whatever they take,
    then more until they agree or have taken `limit` seconds together.
    """
    for _ in range(warm_up):
        run()
    seconds: list[float] = []
    while len(seconds) < least or not (_agree(seconds[-_LAST:]) or sum(seconds) >= limit):
        seconds.append(run())
    return tuple(seconds)


def _agree(last: Sequence[float]) -> bool:
    middle = float(np.median(last))
    return len(last) == _LAST and max(last) - min(last) <= SETTLED * middle
