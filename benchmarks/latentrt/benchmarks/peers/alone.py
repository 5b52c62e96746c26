"""What a peer's own script takes by itself, so that a contest can say whether it is held back."""

from __future__ import annotations

import re
import statistics
import subprocess
from pathlib import Path

from latentrt.benchmarks.child import ending
from latentrt.benchmarks.peers.peer_process import Contestant
from latentrt.bundle.errors import EngineError


def seconds_alone(peer: Contestant, runs: int, scratch: Path, limit: float = 3600.0) -> float:
    """The median of `runs` pictures, whose seconds the peer's script prints for a person.

    Raises `EngineError` where it fails, or takes longer than `limit` seconds for all of it.
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
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise EngineError(f"{peer.name}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{peer.name}: alone, no answer in {limit:g} s") from error
    if done.returncode != 0:
        raise EngineError(f"{peer.name}: alone, {ending(done.returncode, done.stderr)}")
    seconds = [float(s) for s in re.findall(r"^(\d+\.\d+) s$", done.stdout, re.MULTILINE)]
    if len(seconds) != runs:
        raise EngineError(f"{peer.name}: alone, {len(seconds)} pictures of {runs}")
    return statistics.median(seconds)
