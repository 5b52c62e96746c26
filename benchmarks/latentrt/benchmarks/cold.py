"""From a fresh process to the first picture.

    python -m latentrt.benchmarks.cold SUBJECT --out FILE

With an empty cache the engines are compiled and verified, with a filled one they are loaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from latentrt.benchmarks.subject import Subject

_MODULE: Final = "latentrt.benchmarks.cold"
_LIMIT: Final = 3600.0
"""Seconds that a first picture may take."""


@dataclass(frozen=True, slots=True)
class Cold:
    """Seconds from a fresh process to its first picture, and what memory it took.

    `imports` is `import latentrt.runtime`; `opens` reading the bundle and asking the backends;
    `engines` compiling, verifying and storing them, or loading them where `hit`; `picture` the
    picture itself; `memory` the most bytes the process ever had (None where that is not known).
    `problem` says why there is none of this.
    """

    hit: bool
    imports: float = 0.0
    opens: float = 0.0
    engines: float = 0.0
    picture: float = 0.0
    memory: int | None = None
    problem: str = ""

    @property
    def total(self) -> float:
        """All of it, in seconds; what Python itself takes to start is not in it."""
        return self.imports + self.opens + self.engines + self.picture


def cold_starts(subject: Subject) -> tuple[Cold, Cold]:
    """With an empty cache, then with the engines that the first start left in it."""
    from latentrt.benchmarks.child import child

    with tempfile.TemporaryDirectory(prefix="latentrt-bench-") as folder:
        scratch = Path(folder)
        described = scratch / "subject.json"
        described.write_text(json.dumps(subject.to_json()))
        found = [child(_MODULE, [described], scratch, _LIMIT) for _ in range(2)]
    first, second = (_cold(row, hit) for row, hit in zip(found, (False, True), strict=True))
    return first, second


def _cold(row: dict[str, Any], hit: bool) -> Cold:
    if row.get("problem"):
        return Cold(hit, problem=row["problem"])
    return Cold(hit, **row)


def measure(path: Path) -> dict[str, Any]:
    """The seconds and the memory of this process, which has not imported the runtime yet."""
    begun = time.perf_counter()
    import latentrt.runtime  # noqa: F401  # pyright: ignore[reportUnusedImport]

    imports = time.perf_counter() - begun
    from latentrt.benchmarks.memory import Memory
    from latentrt.benchmarks.subject import Subject

    subject = Subject.read(path)
    begun = time.perf_counter()
    with subject.open() as pipeline:
        opened = time.perf_counter()
        seconds = pipeline(subject.request).seconds
        memory = Memory.here().peak
    return {
        "imports": imports,
        "opens": opened - begun,
        "engines": seconds.compile,
        "picture": seconds.total - seconds.compile,
        "memory": memory,
    }


def main() -> None:
    """Measure, and write the row as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("subject", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(json.dumps(measure(options.subject)))


if __name__ == "__main__":
    main()
