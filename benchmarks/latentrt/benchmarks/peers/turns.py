"""Pictures drawn in turns: who is in memory when, who draws when, and what becomes of it.

As many as memory bears are there together and have a turn each a round, so that a slower minute of
the machine meets all of them; the reference is in every such group.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.machine import busy
from latentrt.benchmarks.narration import Say
from latentrt.benchmarks.peers.peer_process import Contestant, Lap, PeerProcess, Ready
from latentrt.benchmarks.peers.standings import Row
from latentrt.benchmarks.ratio import Ratio
from latentrt.bundle.errors import EngineError
from latentrt.bundle.golden import psnr

# Idle threads that wait for work by turning in circles give up within this many seconds.
_PAUSE: Final = 0.3
# Seconds that a round begins with, in which only others are at work.
_LOOK: Final = 0.5
# A picture of milliseconds shows that others' turns leave caches cold, one of seconds does not.
_TURN: Final = 3.0


Alone = Callable[[Contestant], float | None]
"""Seconds of a picture by a contestant's own script with nobody at work beside it, where it has
one and that is asked.
"""


def _not_asked(_: Contestant) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Held:
    """Everybody's rows, the reference's first; the groups they were in; and others at work.

    `busy` is the share of the machine's cores that others had at work, of each round, where known.
    If it was `interrupted`, whoever's group did not come to its end is a row with a problem.
    """

    rows: tuple[Row, ...]
    groups: tuple[tuple[str, ...], ...]
    busy: tuple[float, ...]
    interrupted: bool = False


@dataclass(slots=True)
class _Seen:
    """What was seen of a contestant."""

    contestant: Contestant
    laps: list[Lap] = field(default_factory=list[Lap])
    ratios: list[float] = field(default_factory=list[float])
    alone: list[float] = field(default_factory=list[float])
    ready: Ready | None = None
    psnr: float | None = None
    problem: str = ""

    def row(self) -> Row:
        """As a row of the standings."""
        one, ready = self.contestant, self.ready
        if self.problem or ready is None:
            return Row(one.name, one.precision, problem=self.problem)
        peaks = [lap.rss_peak for lap in self.laps if lap.rss_peak is not None]
        return Row(
            one.name,
            one.precision,
            seconds=tuple(lap.seconds for lap in self.laps),
            ratio=Ratio.of(self.ratios),
            stages=_stages(self.laps),
            start=ready.start,
            first=ready.first,
            rss_peak=max(peaks, default=None),
            psnr=self.psnr,
            settings=ready.settings,
            versions=ready.versions,
            alone=tuple(self.alone),
        )


def _stages(laps: Sequence[Lap]) -> dict[str, float]:
    """Medians of the parts of a picture, and of what is in none of them."""
    if not laps[0].stages:
        return {}
    parts = {name: statistics.median(lap.stages[name] for lap in laps) for name in laps[0].stages}
    own = statistics.median(lap.seconds - sum(lap.stages.values()) for lap in laps)
    return {**parts, "own": own}


def in_turns(
    reference: Contestant,
    others: Sequence[Contestant],
    *,
    rounds: int,
    warmups: int,
    at_once: int,
    scratch: Path,
    say: Say,
    alone: Alone = _not_asked,
    limit: float = 3600.0,
) -> Held:
    """Have everybody draw in turns.

    At most `at_once` are in memory together, the reference always among them; of each group,
    `warmups` rounds are not counted and `rounds` are, at least one. A turn is of as many pictures
    as three seconds have time for, and the median of its second half counts. `alone` is asked right
    after each that counts: in the same minute, since minutes differ by more than what is looked
    for. A contestant that fails, or gives no answer in `limit` seconds, is a row with its problem.
    An interrupt ends it; in the first group, before there is anything to keep, it is raised. Raises
    `EngineError` where the reference fails.
    """
    first = _Seen(reference)
    seen = [_Seen(each) for each in others]
    many = max(1, at_once - 1)
    groups = [seen[i : i + many] for i in range(0, len(seen), many)] or [[]]
    at_work: list[float] = []
    interrupted, whole = False, 0
    for number, group in enumerate(groups):
        drawn = len(first.laps)
        try:
            say(f"group {number + 1} of {len(groups)}")
            with ExitStack() as stack:
                turns = _started([first, *group], stack, scratch, limit, say)
                at_work += _rounds(turns, warmups, rounds, alone, say)
                whole, drawn = number + 1, len(first.laps)
        except KeyboardInterrupt:
            if not whole:
                raise
            interrupted = True
            del first.laps[drawn:], first.ratios[drawn:], first.alone[drawn:]
            for each in chain.from_iterable(groups[whole:]):
                each.problem = each.problem or "it was interrupted"
            say("interrupted: what groups drew that came to their end is kept")
            break
    names = tuple((reference.name, *(each.contestant.name for each in group)) for group in groups)
    rows = (first.row(), *(each.row() for each in seen))
    return Held(rows, names, tuple(at_work), interrupted)


_Turns = list[tuple[_Seen, PeerProcess]]


def _started(
    group: Sequence[_Seen], stack: ExitStack, scratch: Path, limit: float, say: Say
) -> _Turns:
    """Those of a group that drew their first picture, the reference first."""
    turns: _Turns = []
    for each in group:
        try:
            process = stack.enter_context(PeerProcess(each.contestant, scratch, limit=limit))
            each.ready = process.ready()
        except EngineError as error:
            _give_up(each, error, is_reference=each is group[0])
            say(f"  {error}")
            continue
        turns.append((each, process))
        say(f"  {each.contestant.name}: ready in {each.ready.start:.1f} s")
    return turns


def _rounds(turns: _Turns, warmups: int, rounds: int, alone: Alone, say: Say) -> list[float]:
    """All turns of a group, and its pictures; the shares that others had at work."""
    at_work: list[float] = []
    for number in range(warmups + rounds):
        time.sleep(_PAUSE)
        others_at_work = busy(_LOOK)
        at_work.extend(() if others_at_work is None else (others_at_work,))
        counts = number >= warmups
        _round(turns, number, alone if counts else _not_asked, say, counts=counts)
        say(f"  round {number + 1} of {warmups + rounds}")
    _compare(turns)
    return at_work


def _round(turns: _Turns, number: int, alone: Alone, say: Say, *, counts: bool) -> None:
    """A turn of everybody; who goes first changes."""
    reference = turns[0][0]
    laps: dict[str, Lap] = {}
    for each, process in list(turns if number % 2 == 0 else reversed(turns)):
        time.sleep(_PAUSE)
        try:
            laps[each.contestant.name] = _turn(process)
            by_itself = alone(each.contestant)
        except EngineError as error:
            _give_up(each, error, is_reference=each is reference)
            turns.remove((each, process))
            say(f"  {error}")
            continue
        if by_itself is not None:
            each.alone.append(by_itself)
    for each, _ in turns if counts else ():
        lap = laps[each.contestant.name]
        each.laps.append(lap)
        each.ratios.append(laps[reference.contestant.name].seconds / lap.seconds)


def _turn(process: PeerProcess) -> Lap:
    """The median picture of the second half of a turn, which has one at least."""
    laps: list[Lap] = []
    while not laps or sum(lap.seconds for lap in laps) < _TURN:
        laps.append(process.go())
    half = sorted(laps[len(laps) // 2 :], key=lambda lap: lap.seconds)
    return half[(len(half) - 1) // 2]


def _compare(turns: _Turns) -> None:
    """The distance of everybody's picture from the reference's."""
    _, process = turns[0]
    expected = process.save()
    for each, process in turns[1:]:
        try:
            each.psnr = _decibels(process.save(), expected)
        except EngineError as error:
            each.problem = str(error)


def _decibels(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float | None:
    if actual.shape != expected.shape:
        raise EngineError(f"a picture of shape {actual.shape}, the reference's is {expected.shape}")
    if not np.isfinite(actual).all():
        raise EngineError("a picture that is not finite")
    return None if np.array_equal(actual, expected) else psnr(actual, expected, peak=2.0)


def _give_up(each: _Seen, error: EngineError, *, is_reference: bool) -> None:
    if is_reference:
        raise EngineError(f"the reference of the contest failed: {error}") from error
    each.problem = str(error)
