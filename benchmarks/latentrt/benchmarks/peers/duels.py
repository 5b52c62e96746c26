"""Our engines and the fastest peer of their precision, each pair by itself where memory parted it.

In groups of two everybody is beside the reference only, and a ratio of two ratios is worth less
than one of pictures drawn in the same round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from latentrt.benchmarks.narration import Say
from latentrt.benchmarks.peers.peer_process import Contestant
from latentrt.benchmarks.peers.standings import Duel, Standings
from latentrt.benchmarks.peers.turns import in_turns
from latentrt.benchmarks.ratio import ENOUGH
from latentrt.bundle.errors import EngineError


def duels(
    standings: Standings, contestants: Sequence[Contestant], scratch: Path, say: Say
) -> Standings:
    """The standings with duels: those draw in turns who were not in memory together.

    For at least six rounds. A pair of which one fails this time is left out and told; an interrupt
    ends them, and the standings say so.
    """
    by_name = {each.name: each for each in contestants}
    found: list[Duel] = []
    interrupted = False
    for row in standings.rows:
        best = standings.best(row)
        if best is None or best.low is not None:
            continue
        try:
            say(f"{row.name} beside {best.peer}")
            found.append(_duel(by_name, row.name, best.peer, standings, scratch, say))
        except EngineError as error:
            say(f"  {error}")
        except KeyboardInterrupt:
            interrupted = True
            break
    return replace(standings, duels=tuple(found), interrupted=interrupted)


def _duel(
    by_name: Mapping[str, Contestant],
    engine: str,
    peer: str,
    standings: Standings,
    scratch: Path,
    say: Say,
) -> Duel:
    held = in_turns(
        by_name[peer],
        [by_name[engine]],
        rounds=max(standings.rounds, ENOUGH),
        warmups=standings.warmups,
        at_once=2,
        scratch=scratch,
        say=say,
    )
    theirs, ours = held.rows
    if ours.problem:
        raise EngineError(ours.problem)
    return Duel(engine, peer, ours.seconds, theirs.seconds)
