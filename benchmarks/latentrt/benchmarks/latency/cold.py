"""Cold start: from a fresh process to its first image.

The first start compiles and verifies the engines, the second loads them from the cache.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from latentrt.benchmarks.process import answer, answer_of, answers, job
from latentrt.bundle.cache_folder import VARIABLE
from latentrt.bundle.errors import EngineError

if TYPE_CHECKING:
    from latentrt.benchmarks.latency.workload import Workload

_MODULE: Final = "latentrt.benchmarks.latency.cold"


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Seconds from a fresh process to its first image, and the process's peak memory in bytes.

    `cache` is how the process found the engine cache, `built` whether it compiled an engine all the
    same. `import_` is `import latentrt.runtime`; `open_` opens the bundle; `engines` compiles or
    loads; `image` draws. With a `problem` nothing else is known.
    """

    cache: Literal["empty", "filled"]
    built: bool | None = None
    import_: float = 0.0
    open_: float = 0.0
    engines: float = 0.0
    image: float = 0.0
    memory: int | None = None
    problem: str = ""

    @property
    def total(self) -> float:
        """All seconds; the start of Python itself is not included."""
        return self.import_ + self.open_ + self.engines + self.image

    @property
    def note(self) -> str:
        """What went wrong; empty where nothing did."""
        if self.problem:
            return f"cold start, {self.cache} cache: {self.problem}"
        if self.cache == "filled" and self.built:
            return "cold start, filled cache: engines were compiled again instead of loaded"
        return ""


def cold_starts(workload: Workload) -> tuple[ColdStart, ColdStart]:
    """One start with an empty cache, then one with what the first left there."""
    with tempfile.TemporaryDirectory(prefix="latentrt-bench-") as cache:
        return _start("empty", workload, cache), _start("filled", workload, cache)


def _start(state: Literal["empty", "filled"], workload: Workload, cache: str) -> ColdStart:
    environment = {VARIABLE: cache}
    try:
        found = answer_of("process", _MODULE, workload.to_json(), environment=environment)
    except EngineError as error:
        return ColdStart(state, problem=str(error))
    return ColdStart(state, **found)


def measure(asked: dict[str, Any]) -> dict[str, Any]:
    """The seconds and memory of this process, which has not imported the runtime yet."""
    begun = time.perf_counter()
    import latentrt.runtime  # noqa: F401  # pyright: ignore[reportUnusedImport]

    imported = time.perf_counter()
    from latentrt.benchmarks.latency.workload import Workload
    from latentrt.benchmarks.memory import Memory
    from latentrt.runtime import Pipeline

    workload = Workload.from_json(asked)
    phases: set[str] = set()
    opening = time.perf_counter()
    with Pipeline.open(workload.bundle, **workload.engine) as pipeline:
        opened = time.perf_counter()
        run = pipeline.run(workload.request, progress=lambda phase, *_: phases.add(phase))
        seconds = run.result().seconds
        drawn = time.perf_counter()
        memory = Memory.here().peak
    return {
        "built": any(phase.startswith("compil") for phase in phases),
        "import_": imported - begun,
        "open_": opened - opening,
        "engines": seconds.compile,
        "image": drawn - opened - seconds.compile,
        "memory": memory,
    }


if __name__ == "__main__":
    _stream = answers()
    answer(_stream, measure(job()))
