"""Goodput of step-level batching: pictures a second together, against one at a time.

    python -m latentrt.benchmarks.latency.batching BUNDLE [--json FILE]

All requests are there at the start; each measurement serves them all. One at a time and every batch
size take turns, so that a slower minute of the machine meets all of them. A batch is rows of a
U-Net call, of which a guided picture has two: batch 8 is four such pictures.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.machine import Machine
from latentrt.bundle.golden import Difference
from latentrt.bundle.publish import write_file
from latentrt.runtime import Pipeline, Request, Result, Sampling, Size

BATCHES: Final = (1, 2, 4, 8)
REQUESTS: Final = 16
REPEATS: Final = 6
"""Of `latentrt bench`: the fewest of which a verdict says something."""
_PROMPTS: Final = ("a large red circle on a blue background", "a small green star", "two squares")

Progress = Callable[[int, int], None]
"""Told how many measurements are done, and how many there are."""


def _unheard(done: int, total: int) -> None:
    del done, total


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be served together: `requests` by each of `batches`; `note` is what is not."""

    batches: tuple[int, ...]
    requests: int
    note: str = ""

    @staticmethod
    def within(limit: float, picture: float, rows: int, batches: Sequence[int]) -> Serving:
        """As much as takes `limit` seconds, if pictures of `picture` seconds gain nothing together.

        There are `REQUESTS`, or as many fewer as still fill every batch with their `rows` a
        picture; where that is too much, the largest batch is left out.
        """
        kept = sorted(set(batches))
        while kept:
            fewest = math.ceil(kept[-1] / rows)
            for requests in range(max(REQUESTS, fewest), fewest - 1, -1):
                if picture * _pictures(requests, rows, kept) <= limit:
                    return Serving(tuple(kept), requests, _note(limit, requests, kept, batches))
            kept.pop()
        return Serving((), 0, _note(limit, 0, (), batches))


def _pictures(requests: int, rows: int, batches: Sequence[int]) -> float:
    """How many pictures' time all measurements take; a call costs the same however filled."""
    together = (math.ceil(requests * rows / batch) * batch / rows for batch in batches)
    return (REPEATS + 1) * (requests + sum(together))


def _note(limit: float, requests: int, kept: Sequence[int], batches: Sequence[int]) -> str:
    parts: list[str] = []
    if kept and requests < REQUESTS:
        parts.append(f"{requests} requests instead of {REQUESTS}")
    dropped = sorted(set(batches) - set(kept))
    if dropped:
        parts.append(f"no batch of {', '.join(map(str, dropped))}")
    why = f"to stay within --limit {limit:g} (--requests N serves N all the same)"
    return f"served together: {' and '.join(parts)}, {why}" if parts else ""


@dataclass(frozen=True, slots=True)
class Goodput:
    """Pictures a second: `batch` None is one request after the other.

    `calls` are U-Net calls, `filled` the share of their places that rows had, `seconds` those of a
    picture in every repetition, of `requests` each. `apart` is the greatest relative difference of
    a picture's latents from those of the same picture drawn by itself.
    """

    batch: int | None
    median: float
    least: float
    greatest: float
    ratio: float
    calls: int | None
    filled: float | None
    requests: int
    seconds: tuple[float, ...]
    apart: float

    @property
    def name(self) -> str:
        """What it is called in a table."""
        return "one at a time" if self.batch is None else f"batch {self.batch}"


def measure(
    pipeline: Pipeline,
    requests: Sequence[Request],
    batches: Sequence[int],
    repeats: int,
    progress: Progress = _unheard,
) -> list[Goodput]:
    """Goodput one at a time, then at every batch size, each as a ratio to the first."""
    turns: dict[int | None, list[_Turn]] = {batch: [] for batch in (None, *batches)}
    count = len(turns) * (repeats + 1)
    for repeat in range(repeats + 1):
        for number, (batch, taken) in enumerate(turns.items()):
            progress(repeat * len(turns) + number, count)
            turn = _turn(pipeline, requests, batch)
            taken.append(replace(turn, latents=()) if taken else turn)
    progress(count, count)
    first = turns[None]
    return [_goodput(batch, taken, first) for batch, taken in turns.items()]


@dataclass(frozen=True, slots=True)
class _Turn:
    """All requests served once: the seconds, the latents [c, h, w] of each, and the calls.

    What is kept of a later turn has no latents: they would add up.
    """

    seconds: float
    latents: tuple[NDArray[np.float32], ...]
    calls: int | None
    filled: float | None


def _turn(pipeline: Pipeline, requests: Sequence[Request], batch: int | None) -> _Turn:
    if batch is None:
        seconds, results = _timed(lambda: [pipeline(each) for each in requests])
        return _Turn(seconds, _latents(results), None, None)
    with pipeline.batcher(batch_sizes=(batch,)) as batcher:
        seconds, results = _timed(
            lambda: [run.result() for run in [batcher.submit(each) for each in requests]]
        )
        load = batcher.load
    filled = load.evaluated / (load.evaluated + load.padded)
    return _Turn(seconds, _latents(results), load.calls, filled)


def _timed(work: Callable[[], list[Result]]) -> tuple[float, list[Result]]:
    begun = time.perf_counter()
    results = work()
    return time.perf_counter() - begun, results


def _latents(results: Sequence[Result]) -> tuple[NDArray[np.float32], ...]:
    return tuple(latent for result in results for latent in result.latents)


def _goodput(batch: int | None, turns: Sequence[_Turn], alone: Sequence[_Turn]) -> Goodput:
    """The first turn of each compiles: it has the latents, but no time that counts."""
    first, *timed = turns
    pictures = len(first.latents)
    seconds = tuple(turn.seconds / pictures for turn in timed)
    middle = statistics.median(seconds)
    pairs = zip(first.latents, alone[0].latents, strict=True)
    return Goodput(
        batch=batch,
        median=1 / middle,
        least=1 / max(seconds),
        greatest=1 / min(seconds),
        ratio=statistics.median(turn.seconds for turn in alone[1:]) / pictures / middle,
        calls=timed[-1].calls,
        filled=timed[-1].filled,
        requests=len(first.latents),
        seconds=seconds,
        apart=max(Difference.between(ours, theirs).relative for ours, theirs in pairs),
    )


def _requests(count: int, steps: int, size: Size | None) -> list[Request]:
    sampling = Sampling("dpmpp_2m", steps=steps)
    return [
        Request(_PROMPTS[i % len(_PROMPTS)], seed=i, size=size, sampling=sampling, guidance=5.0)
        for i in range(count)
    ]


def _print(rows: Sequence[Goodput]) -> None:
    print(f"{'':<14}{'pictures/s':>12}  {'range':<20}{'ratio':>7}{'calls':>8}{'filled':>9}")
    for row in rows:
        ends = f"({row.least:.3f} to {row.greatest:.3f})"
        calls = "" if row.calls is None else str(row.calls)
        filled = "" if row.filled is None else f"{row.filled:.0%}"
        print(f"{row.name:<14}{row.median:12.3f}  {ends:<20}{row.ratio:7.2f}{calls:>8}{filled:>9}")


def main() -> None:
    """Measure a bundle, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--size", help="WIDTHxHEIGHT; the bundle's own if not given")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--json", type=Path, help="write the measurements here")
    options = parser.parse_args()
    size = None if options.size is None else Size.parse(options.size)
    requests = _requests(options.requests, options.steps, size)
    batches = [int(batch) for batch in options.batches.split(",")]
    with Pipeline.open(
        options.bundle, engine=options.engine, precision=options.precision
    ) as pipeline:
        rows = measure(pipeline, requests, batches, options.repeats)
        engine = pipeline.engines["unet"]
    _print(rows)
    if options.json is not None:
        found: dict[str, Any] = {
            "machine": Machine.here().to_json(),
            "bundle": options.bundle.name,
            "engine": engine,
            "precision": options.precision,
            "size": options.size,
            "steps": options.steps,
            "requests": options.requests,
            "repeats": options.repeats,
            "rows": [asdict(row) for row in rows],
        }
        write_file(options.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
