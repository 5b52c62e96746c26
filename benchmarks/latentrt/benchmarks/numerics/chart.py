"""Errors as a line chart: SVG to stand in an HTML page, which gives it its colours.

Values are on a logarithmic scale, a grid line a power of ten. The page's style sheet has the
classes `grid`, `axis`, `limit`, and `series` with `s0` to `s5`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

COLOURS: Final = 6
"""How many series have a colour of their own."""

_WIDTH: Final = 860
_HEIGHT: Final = 300
_LEFT: Final = 62
_RIGHT: Final = 14
_TOP: Final = 12
_BOTTOM: Final = 44
_FEW: Final = 24
"""Up to so many places along the axis, each is named."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its values at 0, 1, 2, ...; what is no positive number leaves a gap.

    `colour` counts from 0; a `dashed` line may share it with another.
    """

    name: str
    values: Sequence[float]
    colour: int
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over the same places.

    `places` are their names, `limit` a value that is drawn as a line across (None: none), `across`
    and `title` say what is along the axis and what the chart shows.
    """

    title: str
    across: str
    places: Sequence[str]
    series: Sequence[Series]
    limit: float | None = None

    def svg(self) -> str:
        """The chart as an SVG element."""
        low, high = self._decades()
        parts = [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(self.title)}">',
            *self._grid(low, high),
            *(self._line(series, low, high) for series in self.series),
            "</svg>",
        ]
        return "\n".join(parts)

    def legend(self) -> str:
        """The series' names with their lines, as an HTML list."""
        entries = [(_class(series), series.name) for series in self.series]
        if self.limit is not None:
            entries.append(("limit", "tolerance"))
        items = (
            f'<li><svg viewBox="0 0 28 8" class="key" aria-hidden="true">'
            f'<path class="{kind}" d="M1 4H27"/></svg>{escape(name)}</li>'
            for kind, name in entries
        )
        return f'<ul class="legend">{"".join(items)}</ul>'

    def _decades(self) -> tuple[int, int]:
        """The powers of ten between which everything lies, two of them at least."""
        values = [v for series in self.series for v in _plotted(series.values)]
        found = [*values, *([] if self.limit is None else [self.limit])] or [1.0]
        low = math.floor(math.log10(min(found)))
        return low, max(math.ceil(math.log10(max(found))), low + 1)

    def _x(self, place: int) -> float:
        room = _WIDTH - _LEFT - _RIGHT
        return _LEFT + room * (place + 0.5) / max(1, len(self.places))

    def _grid(self, low: int, high: int) -> Iterable[str]:
        for power in range(low, high + 1):
            y = _y(10.0**power, low, high)
            yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            yield _text(_LEFT - 8, y + 4, f"{10.0**power:.0e}", "end")
        every = -(-len(self.places) // _FEW)
        for place in range(0, len(self.places), every):
            yield _text(self._x(place), _HEIGHT - _BOTTOM + 16, str(place), "middle")
        yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, self.across, "middle")
        if self.limit is not None:
            y = _y(self.limit, low, high)
            yield f'<path class="limit" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'

    def _line(self, series: Series, low: int, high: int) -> str:
        path = ""
        points: list[str] = []
        drawing = False
        for place, value in enumerate(series.values):
            if not 0 < value < math.inf:
                drawing = False
                continue
            x, y = self._x(place), _y(value, low, high)
            path += f"{'L' if drawing else 'M'}{x:.1f} {y:.1f}"
            drawing = True
            told = escape(f"{self.places[place]}: {value:.1e} ({series.name})")
            spot = f'cx="{x:.1f}" cy="{y:.1f}" r="2.5"'
            points.append(f"<circle {spot}><title>{told}</title></circle>")
        return f'<g class="{_class(series)}"><path d="{path}"/>{"".join(points)}</g>'


def _plotted(values: Iterable[float]) -> Iterable[float]:
    return (value for value in values if 0 < value < math.inf)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="axis" {place}>{escape(text)}</text>'


def _y(value: float, low: int, high: int) -> float:
    share = (math.log10(value) - low) / (high - low)
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)


def _class(series: Series) -> str:
    return f"series s{series.colour % COLOURS}{' dashed' if series.dashed else ''}"
