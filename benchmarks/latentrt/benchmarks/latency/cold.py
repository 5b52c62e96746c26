"""From a fresh process to the first picture.

    python -m latentrt.benchmarks.latency.cold SUBJECT --out FILE

With an empty cache the engines are compiled and verified, with a filled one they are loaded, if the
cache is what it should be: the process says what it did.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from latentrt.benchmarks.latency.subject import Subject

_MODULE: Final = "latentrt.benchmarks.latency.cold"
_LIMIT: Final = 3600.0
"""Seconds that a first picture may take."""


@dataclass(frozen=True, slots=True)
class Cold:
    """Seconds from a fresh process to its first picture, and what memory it took.

    `cache` is how it was found; `hit` whether every engine was loaded from it, as the process saw
    it. `imports` is `import latentrt.runtime`; `opens` reading the bundle and asking the backends;
    `engines` compiling, verifying and storing them, or loading them where `hit`; `picture` the
    picture itself; `memory` the most bytes the process ever had (None where that is not known).
    `problem` says why there is none of this; then `hit` is None.
    """

    cache: Literal["empty", "filled"]
    hit: bool | None = None
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

    @property
    def name(self) -> str:
        """What it is called in a table."""
        seen = {True: "loaded", False: "built", None: "failed"}[self.hit]
        return f"{self.cache} cache, {seen}"

    @property
    def note(self) -> str:
        """What went otherwise than it should; empty where nothing did."""
        if self.problem:
            return f"cold start: {self.problem}"
        if self.cache == "filled" and not self.hit:
            return "cold start: engines were built again though the first start had stored them"
        return ""


def cold_starts(subject: Subject) -> tuple[Cold, Cold]:
    """With an empty cache, then with what the first start left in it."""
    from latentrt.benchmarks.child import child

    with tempfile.TemporaryDirectory(prefix="latentrt-bench-") as folder:
        scratch = Path(folder)
        described = scratch / "subject.json"
        described.write_text(json.dumps(subject.to_json()), encoding="utf-8")
        first, second = (child(_MODULE, [described], scratch, _LIMIT) for _ in range(2))
    return _cold("empty", first), _cold("filled", second)


def _cold(cache: Literal["empty", "filled"], row: dict[str, Any]) -> Cold:
    if row.get("problem"):
        return Cold(cache, problem=row["problem"])
    return Cold(cache, **row)


def measure(path: Path) -> dict[str, Any]:
    """The seconds and the memory of this process, which has not imported the runtime yet."""
    begun = time.perf_counter()
    import latentrt.runtime  # noqa: F401  # pyright: ignore[reportUnusedImport]

    imports = time.perf_counter() - begun
    from latentrt.benchmarks.latency.noted_cache import NotedCache
    from latentrt.benchmarks.latency.subject import Subject
    from latentrt.benchmarks.memory import Memory

    subject = Subject.read(path)
    begun = time.perf_counter()
    cache = NotedCache()
    with subject.open(cache) as pipeline:
        opened = time.perf_counter()
        seconds = pipeline(subject.request).seconds
        memory = Memory.here().peak
    return {
        "hit": all(cache.hits),
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
    options.out.write_text(json.dumps(measure(options.subject)), encoding="utf-8")


if __name__ == "__main__":
    main()
