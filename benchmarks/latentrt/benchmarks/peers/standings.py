"""How a contest ended: a row for everybody, the ratio to the reference before the seconds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from latentrt.benchmarks.ratio import ENOUGH, Ratio
from latentrt.engines.verification.tolerances import TOLERANCES

SCHEMA: Final = "latentrt-contest-2"
"""1 knew no pictures of a peer's own script of the same round."""
OURS_PREFIX: Final = "latentrt-"
"""What the names of our own engines' rows begin with, and no peer's."""
GUARDS: Final[Mapping[str, float]] = {
    # Colours that OpenVINO GenAI cuts off to 8 bits are 51 dB from rounded ones: 40 is no rounding.
    "fp32": 40.0,
    # On a GPU the reference rounds as well: two that are each so far off, twice as far, 6 dB.
    "fp16": TOLERANCES["fp16"].psnr - 6.0,
    "bf16": TOLERANCES["bf16"].psnr,
}
"""Decibels from the reference's picture that a contestant has to reach, by its precision.

In 16 bits it is what `latentrt.engines.verification.verify` has our own engines owe PyTorch's fp32.
"""
_APART: Final = 0.1
"""Farther than this from what its script takes alone, a peer was not measured at its best."""
_BUSY: Final = 0.25
"""Share of the cores that others have at work from which on a contest is called disturbed."""
_COLUMNS: Final = ("text", "unet", "decode", "own")


@dataclass(frozen=True, slots=True)
class Best:
    """How many times as fast as the fastest `peer` of its precision one of our engines is.

    Without `low` and `high` the two never drew in one round, and `median` is the one's ratio to the
    reference over the other's.
    """

    peer: str
    median: float
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Duel:
    """One of our engines and a peer by themselves: the seconds of a picture of every round."""

    engine: str
    peer: str
    seconds: tuple[float, ...]
    peer_seconds: tuple[float, ...]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Duel:
        """What `asdict` gave."""
        seconds, theirs = tuple(value["seconds"]), tuple(value["peer_seconds"])
        return Duel(value["engine"], value["peer"], seconds, theirs)


@dataclass(frozen=True, slots=True)
class Row:
    """How a contestant did.

    `problem` says why it did not take part or did not finish, `remedy` what to do; then the rest is
    empty. `seconds` are those of each picture, `stages` the medians of their parts, with `own` what
    is in none of them; `start` the seconds from its process's start to the end of its first
    picture, `first` those of that picture; `rss_peak` is in bytes. `psnr` is its picture's distance
    in decibels from the reference's, None where the two are equal. `settings` and `versions` are
    what it said of itself. `alone` are the seconds of a picture of a peer's own script, by itself
    right after each of those of `seconds`, where that was measured.
    """

    name: str
    precision: str
    problem: str = ""
    remedy: str = ""
    seconds: tuple[float, ...] = ()
    ratio: Ratio | None = None
    stages: Mapping[str, float] | None = None
    start: float | None = None
    first: float | None = None
    rss_peak: int | None = None
    psnr: float | None = None
    settings: Mapping[str, str] | None = None
    versions: Mapping[str, str] | None = None
    alone: tuple[float, ...] = ()

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Row:
        """What `to_json` gave, of an earlier version too, which did not know `alone`."""
        stated = {each.name: value[each.name] for each in fields(Row) if each.name in value}
        ratio = stated["ratio"]
        read = {
            "seconds": tuple(stated["seconds"]),
            "alone": tuple(stated.get("alone", ())),
            "ratio": None if ratio is None else Ratio(**ratio),
        }
        return Row(**{**stated, **read})

    @property
    def ours(self) -> bool:
        """Whether it is one of latentrt's engines."""
        return self.name.startswith(OURS_PREFIX)

    @property
    def median(self) -> float | None:
        """The median of its seconds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def beside(self) -> Ratio | None:
        """How many times as long its picture took in its turn as alone, right after it."""
        if not self.alone:
            return None
        return Ratio.of([s / a for s, a in zip(self.seconds, self.alone, strict=True)])

    @property
    def apart(self) -> bool:
        """Whether those two differ by more than a tenth."""
        return self.beside is not None and abs(self.beside.median - 1.0) > _APART

    @property
    def strays(self) -> bool:
        """Whether it drew another picture than the reference, as far as its precision tells."""
        return self.psnr is not None and self.psnr < GUARDS[self.precision]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        derived = {name: getattr(self, name) for name in ("median", "strays", "apart")}
        beside = None if self.beside is None else asdict(self.beside)
        return {**asdict(self), **derived, "beside": beside}


@dataclass(frozen=True, slots=True)
class Standings:
    """A contest's rows, and under which conditions they came to be.

    `groups` names who was to be in memory together, for `rounds` turns each; `load` is the
    machine's over 1, 5 and 15 minutes, before and after; `busy` the share of its cores that was at
    work before and between our turns, None where it is not known. `duels` are of those who were in
    no group together. If it was `interrupted`, some rows have that for a problem, or duels are
    missing.
    """

    reference: str
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, ...], ...]
    rounds: int
    warmups: int
    settings: Mapping[str, Any]
    source: str
    machine: Mapping[str, Any]
    load: Mapping[str, Sequence[float]]
    busy: float | None = None
    duels: tuple[Duel, ...] = ()
    interrupted: bool = False

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Standings:
        """What `to_json` gave, of an earlier version too, which knew no `busy`, no `duels` and no
        `interrupted`.
        """
        stated = {each.name: value[each.name] for each in fields(Standings) if each.name in value}
        paired = value["schema"] == SCHEMA
        rows = tuple(
            Row.from_json(row if paired else {**row, "alone": ()}) for row in value["rows"]
        )
        groups = tuple(tuple(group) for group in value["groups"])
        held = tuple(Duel.from_json(each) for each in value.get("duels", ()))
        return Standings(**{**stated, "rows": rows, "groups": groups, "duels": held})

    @property
    def disturbed(self) -> bool:
        """Whether others were at work, which threads that wait for each other suffer from many
        times over: then neither seconds nor ratios are worth keeping.
        """
        return self.busy is not None and self.busy > _BUSY

    @property
    def interval(self) -> str:
        """What the ends of a ratio are."""
        return "95 %" if self.rounds >= ENOUGH else "range"

    def best(self, row: Row) -> Best | None:
        """How one of our engines did beside the fastest peer of its precision; None for a peer.

        The fastest has the largest ratio to the reference, which may be it, of those that drew the
        same picture. Over pictures of one round where both were in memory together, in a group or
        a duel, else by the medians of their ratios to the reference.
        """
        peers = [each for each in self.rows if _is_peer(each, row.precision)]
        if not row.ours or row.problem or row.ratio is None or not peers:
            return None
        peer = max(peers, key=_speed)
        if peer.name == self.reference:
            return Best(peer.name, row.ratio.median, row.ratio.low, row.ratio.high)
        pairs = self._pairs(row, peer)
        if not pairs:
            return Best(peer.name, row.ratio.median / _speed(peer))
        ratio = Ratio.of([theirs / ours for ours, theirs in pairs])
        return Best(peer.name, ratio.median, ratio.low, ratio.high)

    def _pairs(self, row: Row, peer: Row) -> list[tuple[float, float]]:
        """The seconds of both in each round that both had a turn in."""
        if any({row.name, peer.name} <= set(group) for group in self.groups):
            return list(zip(row.seconds, peer.seconds, strict=True))
        for duel in self.duels:
            if (duel.engine, duel.peer) == (row.name, peer.name):
                return list(zip(duel.seconds, duel.peer_seconds, strict=True))
        return []

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `docs/contest.schema.json` says what is in it."""
        stated = {name: getattr(self, name) for name in self.__slots__ if name != "rows"}
        stated["duels"] = [asdict(duel) for duel in self.duels]
        rows: list[dict[str, Any]] = []
        for row in self.rows:
            best = self.best(row)
            rows.append({**row.to_json(), "best": None if best is None else best.to_json()})
        return {"schema": SCHEMA, **stated, "disturbed": self.disturbed, "rows": rows}

    def __str__(self) -> str:
        """An aligned table; below it, who is missing or went wrong, and how to mend it."""
        head = f"{'':<32}{'times as fast':>14}  {self.interval:<14}{'as best peer':>14}"
        head += f"{'seconds':>9}  {'range':<18}"
        head += "".join(f"{name:>8}" for name in _COLUMNS) + f"{'dB':>7}{'start s':>9}{'GB':>7}"
        head += f"{'alone':>8}"
        ran = [row for row in self.rows if not row.problem]
        lines = [head, *(_line(row, self.best(row), row.name == self.reference) for row in ran)]
        for row in self.rows:
            if row.problem:
                lines.append(
                    f"{row.name}: {row.problem}" + (f"; {row.remedy}" if row.remedy else "")
                )
            elif row.strays:
                lines.append(f"{row.name}: draws another picture: {row.psnr:.1f} dB")
            elif row.beside is not None and row.apart:
                times = f"{row.beside.median:.2f} times"
                lines.append(f"{row.name}: {times} what its script takes alone")
        if self.interrupted:
            lines.append("interrupted: hold it again for the rest")
        if self.disturbed:
            lines.append(f"others were at work ({self.busy:.0%} of the cores): hold it again")
        return "\n".join(lines)


def _is_peer(row: Row, precision: str) -> bool:
    """Whether it is a peer of a precision that did what it was to do."""
    whole = row.ratio is not None and not row.problem and not row.strays
    return whole and not row.ours and row.precision == precision


def _speed(row: Row) -> float:
    return 0.0 if row.ratio is None else row.ratio.median


def _line(row: Row, best: Best | None, is_reference: bool) -> str:
    ratio, stages, median = row.ratio, row.stages or {}, row.median
    assert ratio is not None
    assert median is not None
    ends = "reference" if is_reference else f"{ratio.low:.2f} to {ratio.high:.2f}"
    spread = f"{min(row.seconds):.3f} to {max(row.seconds):.3f}"
    parts = "".join(_seconds(stages.get(name)) for name in _COLUMNS)
    decibels = "" if is_reference else "equal" if row.psnr is None else f"{row.psnr:.1f}"
    held = "?" if row.rss_peak is None else f"{row.rss_peak / 1e9:.2f}"
    beside = "" if best is None else f"{best.median:.2f}"
    speed = f"{row.name:<32}{ratio.median:14.2f}  {ends:<14}{beside:>14}"
    speed += f"{median:9.3f}  {spread:<18}"
    alone = "" if row.beside is None else f"{row.beside.median:.2f}"
    return f"{speed}{parts}{decibels:>7}{row.start:9.1f}{held:>7}{alone:>8}"


def _seconds(value: float | None) -> str:
    return f"{'':>8}" if value is None else f"{value:8.3f}"
