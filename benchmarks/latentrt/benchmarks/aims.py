"""What this project means to reach beside other libraries, held against a contest's standings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from latentrt.benchmarks.peers.standings import Best, Ratio, Row, Standings

_FASTER: Final = 3.5
"""Times as fast as the reference, PyTorch in fp32, an engine in bf16 is to be."""
_OWN: Final = 0.01
"""Share of a picture that may be the runtime's own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an aim in one contest: the worst row and its number, in words.

    `reached` is None where the standings do not say.
    """

    worst: str
    reached: bool | None

    def __str__(self) -> str:
        word = {True: "reached", False: "**missed**", None: "not measured"}[self.reached]
        return f"{word}: {self.worst}"


_UNFINISHED: Final = Outcome("not every engine drew the picture", False)


def not_slower(found: Standings) -> Outcome:
    """None of our engines is slower than the fastest peer of its precision."""
    rows = _ours(found)
    if rows is None:
        return _UNFINISHED
    beside = [(best, row) for row in rows if (best := found.best(row)) is not None]
    if len(beside) < len(rows):
        return Outcome("an engine had no peer of its precision", None)
    best, row = min(beside, key=lambda each: each[0].median)
    absent = [each for each in found.rows if not each.ours and (each.problem or each.strays)]
    words = f"`{row.name}` {interval(best)} times as fast as `{best.peer}`"
    return Outcome(f"{words}{_without(absent)}", best.median >= 1.0)


def faster(found: Standings) -> Outcome:
    """Our engines in bf16 are so many times as fast as the reference."""
    rows = _ours(found)
    if rows is None:
        return _UNFINISHED
    ratios = [(row.ratio, row) for row in rows if row.precision == "bf16" and row.ratio]
    if not ratios:
        return Outcome("no engine in bf16", None)
    ratio, row = min(ratios, key=lambda each: each[0].median)
    words = f"`{row.name}` {interval(ratio)} times as fast as `{found.reference}`"
    return Outcome(words, ratio.median >= _FASTER)


def little_of_its_own(found: Standings) -> Outcome:
    """Of a picture by our engines, little is the runtime's own time."""
    rows = _ours(found)
    if rows is None:
        return _UNFINISHED
    shares = [(_own_share(row), row) for row in rows]
    known = [(share, row) for share, row in shares if share is not None]
    if len(known) < len(rows):
        return Outcome("parts of a picture are not known", None)
    share, row = max(known, key=lambda each: each[0])
    return Outcome(f"`{row.name}` {100 * share:.2f} % of a picture", share < _OWN)


def as_fast_as_alone(found: Standings) -> Outcome:
    """Every peer takes as long in its turns as its own script does, but for a tenth."""
    absent = [row for row in found.rows if not row.ours and row.problem]
    peers = [row for row in found.rows if not row.ours and not row.problem]
    known = [(row.beside, row) for row in peers if row.beside is not None]
    if not known:
        return Outcome("no peer's own script", None)
    if len(known) < len(peers):
        unpaired = [row for row in peers if row.beside is None]
        return Outcome(f"own scripts of {_names(unpaired)}", None)
    beside, row = max(known, key=lambda each: abs(each[0].median - 1.0))
    words = f"`{row.name}` {interval(beside)} of its time alone"
    return Outcome(f"{words}{_without(absent)}", not any(each.apart for each in peers))


AIMS: Final[Mapping[str, Callable[[Standings], Outcome]]] = {
    "no engine slower than the best peer of its precision": not_slower,
    f"the engine in bf16 {_FASTER} times as fast as diffusers in fp32": faster,
    f"the runtime's own time under {100 * _OWN:.0f} % of a picture": little_of_its_own,
    "each peer within 10 % of its own script alone": as_fast_as_alone,
}
"""By what is aimed at."""


def _ours(found: Standings) -> list[Row] | None:
    """Our engines; None where one of them did not draw the reference's picture."""
    rows = [row for row in found.rows if row.ours]
    whole = all(row.ratio is not None and not row.problem and not row.strays for row in rows)
    return rows if rows and whole else None


def _own_share(row: Row) -> float | None:
    own = (row.stages or {}).get("own")
    return None if own is None or row.median is None else own / row.median


def _without(absent: Sequence[Row]) -> str:
    """The peers that are not in it, since they did not run or drew something else."""
    return f", without {_names(absent)}" if absent else ""


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(f"`{row.name}`" for row in rows)


def interval(found: Ratio | Best) -> str:
    """The median, and where there are any its ends."""
    ends = "" if found.low is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.median:.2f}{ends}"
