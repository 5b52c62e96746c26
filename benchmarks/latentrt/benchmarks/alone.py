"""Whether a peer draws in a contest as fast as its own script does with nobody beside it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentrt.benchmarks.child import ending
from latentrt.benchmarks.narration import Say
from latentrt.benchmarks.peer_process import Contestant
from latentrt.benchmarks.standings import Row
from latentrt.bundle.errors import EngineError


def beside_alone(
    peers: Sequence[Contestant],
    rows: Sequence[Row],
    *,
    runs: int,
    scratch: Path,
    say: Say,
    limit: float = 3600.0,
) -> tuple[Row, ...]:
    """The rows of a contest, those of these peers with the seconds that they take alone.

    A peer that did not finish the contest is left out; one that fails alone, or takes longer than
    `limit` seconds, is a row with its problem.
    """
    found = {row.name: row for row in rows}
    for peer in peers:
        row = found[peer.name]
        if row.problem:
            continue
        try:
            seconds = seconds_alone(peer, runs, scratch, limit)
        except EngineError as error:
            found[peer.name] = replace(row, problem=str(error))
            say(f"  {error}")
            continue
        found[peer.name] = replace(row, alone=seconds)
        say(f"  {peer.name}: alone")
    return tuple(found.values())


def seconds_alone(peer: Contestant, runs: int, scratch: Path, limit: float) -> tuple[float, ...]:
    """Seconds of each of `runs` pictures, as the peer's script prints them for a person.

    Raises `EngineError` where it fails.
    """
    spec = scratch / f"{peer.name}.json"
    peer.write_spec(spec)
    command = [*peer.command, str(spec), "--runs", str(runs)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env=dict(peer.environment) or None,
        )
    except OSError as error:
        raise EngineError(f"{peer.name}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{peer.name}: alone, no answer in {limit:g} s") from error
    if done.returncode != 0:
        raise EngineError(f"{peer.name}: alone, {ending(done.returncode, done.stderr)}")
    seconds = tuple(float(s) for s in re.findall(r"^(\d+\.\d+) s$", done.stdout, re.MULTILINE))
    if len(seconds) != runs:
        raise EngineError(f"{peer.name}: alone, {len(seconds)} pictures of {runs}")
    return seconds
