"""A module of ours, or another command, in a process of its own: what it finds, or how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from latentrt.bundle.cache_folder import VARIABLE


def child(
    module: str,
    arguments: Sequence[object],
    scratch: Path,
    limit: float,
    python: str = sys.executable,
) -> dict[str, Any]:
    """What a module of ours writes when it is run in a process of its own.

    `python` may be that of another environment where latentrt is. If the process ends otherwise,
    there is `problem` alone, which says how, with the last of what it printed.
    """
    out = scratch / "row.json"
    out.unlink(missing_ok=True)
    command = [python, "-m", module, *map(str, arguments), "--out", str(out)]
    problem = run(command, limit, scratch)
    if out.is_file():
        row: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return row
    return {"problem": problem or "wrote nothing"}


def run(
    command: Sequence[str],
    limit: float,
    scratch: Path,
    environment: Mapping[str, str] = MappingProxyType(os.environ),
) -> str:
    """Run a command with a cache in `scratch`; what went wrong, or nothing."""
    settings = {**environment, VARIABLE: str(scratch / "cache")}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env=settings,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {limit:g} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror or error}"
    return "" if done.returncode == 0 else ending(done.returncode, done.stderr)


def ending(status: int, errors: str) -> str:
    """How a process ended, with the last line of what it printed as errors."""
    lines = [line for line in errors.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it printed nothing"
    if status < 0:
        return f"ended by {signal.Signals(-status).name}: {last}"
    return f"exit status {status}: {last}"
