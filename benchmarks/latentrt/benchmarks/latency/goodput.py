"""The arrivals a second that a server can bear, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

_LATE: Final = 95.0
_IN_A_ROW: Final = 2
_RESAMPLES: Final = 2000

Bound = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Point:
    """`rate` is arrivals a second, `waits` [paths, requests] the seconds to the picture."""

    rate: float
    waits: tuple[tuple[float, ...], ...]

    @property
    def p50(self) -> float:
        """The median wait of all paths' requests."""
        return float(np.percentile(self.waits, 50))

    @property
    def p95(self) -> float:
        """What 95 of 100 of them wait at most."""
        return float(np.percentile(self.waits, _LATE))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, the waits in whole microseconds."""
        waits = [[round(wait, 6) for wait in path] for path in self.waits]
        return {"rate": self.rate, "p50": self.p50, "p95": self.p95, "waits": waits}


@dataclass(frozen=True, slots=True)
class Interval:
    """A number, and from where to where 95 % of its bootstrap resamples lie."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(value: float, resamples: NDArray[np.float64]) -> Interval:
        """Resamples of whole paths, with replacement (Efron 1979)."""
        low, high = np.percentile(resamples, [2.5, 97.5])
        return Interval(value, float(low), float(high))


@dataclass(frozen=True, slots=True)
class Curve:
    """A server's points, the slower arrivals first; `limit` is what p95 may be, in seconds."""

    server: str
    limit: float
    points: tuple[Point, ...]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Curve:
        """From `to_json`; raises `KeyError`, `TypeError` or `ValueError`."""
        points = tuple(
            Point(float(each["rate"]), tuple(tuple(map(float, path)) for path in each["waits"]))
            for each in value["points"]
        )
        return Curve(str(value["server"]), float(value["limit"]), points)

    @property
    def paths(self) -> int:
        """How many paths there are of each rate."""
        return len(self.points[0].waits)

    @property
    def goodput(self) -> float:
        """The arrivals a second at which the 95th percentile reaches the limit; see `bound`."""
        return borne(self._rates, [point.p95 for point in self.points], self.limit)

    @property
    def bound(self) -> Bound | None:
        """Whether the goodput is beyond what was tried, and on which side."""
        first = _first_late([point.p95 for point in self.points], self.limit)
        if first is None:
            return "at least"
        return None if first else "at most"

    @property
    def interval(self) -> Interval:
        """The goodput, within the rates that were tried, over paths."""
        return Interval.of(self.goodput, self.resampled(np.random.default_rng(0)))

    def resampled(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Goodputs of resamples of whole paths, the same ones at every rate."""
        picks = rng.integers(0, self.paths, (_RESAMPLES, self.paths))
        late = [
            np.percentile(np.asarray(point.waits)[picks].reshape(_RESAMPLES, -1), _LATE, axis=1)
            for point in self.points
        ]
        return np.array([borne(self._rates, row, self.limit) for row in np.transpose(late)])

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        interval = self.interval
        return {
            "server": self.server,
            "limit": self.limit,
            "points": [point.to_json() for point in self.points],
            "goodput": interval.value,
            "low": interval.low,
            "high": interval.high,
            "bound": self.bound,
        }

    @property
    def _rates(self) -> list[float]:
        return [point.rate for point in self.points]


def gain(curves: Sequence[Curve]) -> Interval | None:
    """The last curve's goodput over the first's, their paths resampled together.

    None without curves, and where one of the two is only a bound.
    """
    if not curves or any(curve.bound for curve in (curves[0], curves[-1])):
        return None
    one, other = curves[0], curves[-1]
    # The same seed picks the same paths, which have the same arrivals.
    first, last = (curve.resampled(np.random.default_rng(0)) for curve in (one, other))
    return Interval.of(other.goodput / one.goodput, last / first)


def gain_to_json(curves: Sequence[Curve]) -> dict[str, float] | None:
    """`gain` as a JSON object."""
    found = gain(curves)
    return None if found is None else asdict(found)


def exceeded(points: Sequence[Point], limit: float) -> bool:
    """Whether the last two points are above the limit: one alone may be chance."""
    last = points[-_IN_A_ROW:]
    return len(last) == _IN_A_ROW and all(point.p95 > limit for point in last)


def borne(rates: Sequence[float], late: Sequence[float], limit: float) -> float:
    """The rate at which the 95th percentile reaches the limit for good, between two linearly.

    That is where two rates in a row, or the last, are above it. Where none is, the last rate; where
    the first is, the first.
    """
    first = _first_late(late, limit)
    if first is None:
        return rates[-1]
    if first == 0:
        return rates[0]
    share = (limit - late[first - 1]) / (late[first] - late[first - 1])
    return rates[first - 1] + float(share) * (rates[first] - rates[first - 1])


def _first_late(late: Sequence[float], limit: float) -> int | None:
    """The first from which on two in a row, or the last, are above the limit."""
    above = [each > limit for each in late]
    pairs = zip(above, [*above[1:], True], strict=True)
    return next((n for n, pair in enumerate(pairs) if all(pair)), None)
