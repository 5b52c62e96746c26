"""Every backend as one environment has it, and which of several environments has it to try.

    python -m latentrt.benchmarks.providers --out FILE

Some extras exclude each other: `make gpu` has an environment for each of these. Run as above, this
says what the backends of the environment that it runs in say of themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentrt.benchmarks.child import child
from latentrt.engines.registry import BACKENDS, Status, backend


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python with some of the extras, and what its backends say; `problem` if it says nothing.

    `name` is that of its folder, empty for the environment that this runs in.
    """

    name: str
    python: str
    statuses: Mapping[str, Status]
    problem: str = ""

    @staticmethod
    def here() -> Environment:
        """The one that this runs in."""
        return Environment("", sys.executable, {name: backend(name).status() for name in BACKENDS})

    @staticmethod
    def of(folder: Path, scratch: Path, limit: float) -> Environment:
        """The virtual environment in a folder, asked in a process of its own."""
        # Not resolved: what the link leads to is a Python without the environment.
        python = os.path.abspath(folder / "bin" / "python")
        if not os.path.exists(python):
            return Environment(folder.name, python, {}, "it was not made")
        found = child("latentrt.benchmarks.providers", [], scratch, limit, python)
        rows: Mapping[str, dict[str, Any]] = found.get("statuses", {})
        statuses = {n: Status(**{**r, "devices": tuple(r["devices"])}) for n, r in rows.items()}
        return Environment(folder.name, python, statuses, found["problem"])


@dataclass(frozen=True, slots=True)
class Provider:
    """A backend in one of the environments."""

    name: str
    status: Status
    environment: Environment


def providers(environments: Sequence[Environment]) -> list[Provider]:
    """Every backend, once for each of its versions that can be used somewhere.

    One that can be used nowhere is there once, as the environment says that lacks least for it. The
    first environment is one that knows every backend.
    """
    found: list[Provider] = []
    for name in BACKENDS:
        everywhere = [
            Provider(name, e.statuses[name], e) for e in environments if name in e.statuses
        ]
        usable: dict[str | None, Provider] = {}
        for provider in everywhere:
            if provider.status.usable:
                usable.setdefault(provider.status.version, provider)
        nearest = max(everywhere, key=lambda p: p.status.version is not None)
        found += list(usable.values()) or [nearest]
    return found


def main() -> None:
    """Write what the backends here say as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    statuses = {name: asdict(status) for name, status in Environment.here().statuses.items()}
    options.out.write_text(json.dumps({"problem": "", "statuses": statuses}), encoding="utf-8")


if __name__ == "__main__":
    main()
