"""Requests that come when they come: how long each waits, one at a time and batched.

Arrivals are a Poisson process and wait for nobody (an open loop), so a server that falls behind is
seen to. What a request waits counts from when it came, not from when it was let in. Of one rate
there are several independent paths of arrivals, each from an idle server on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.latency.goodput import Curve, Point, exceeded
from latentrt.runtime import Pipeline, Request

Serve = Callable[[Request], object]
"""Gives a request's pictures when they are ready; called from many threads."""

Progress = Callable[[int, int], None]
"""Told how many paths are done or left out, and how many there are."""

LOADS: Final = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 1.9, 2.4)
"""Arrivals in the time of one picture at which a server is tried."""
LIMIT: Final = 4.0
"""What 95 of 100 requests may take, in times of one picture that is served alone."""
PATHS: Final = 6
"""Paths of one rate: the fewest of which a verdict says something."""


def curves(
    pipeline: Pipeline,
    request: Request,
    picture: float,
    *,
    count: int,
    max_batch: int = 8,
    loads: Sequence[float] = LOADS,
    limit: float = LIMIT,
    progress: Progress,
) -> tuple[Curve, Curve]:
    """One request at a time, then the batcher, at the same arrivals.

    `picture` is the seconds of one that is served alone, `count` the most requests of each rate,
    which its paths share evenly. A server is tried until it exceeds the limit at two rates in a
    row. The paths of both take turns.
    """
    paths = [path(seed, count // min(PATHS, count)) for seed in range(min(PATHS, count))]
    with pipeline.batcher(max_batch=max_batch) as batcher, ThreadPoolExecutor(1) as alone:
        servers: dict[str, Serve] = {
            "one at a time": lambda r: alone.submit(pipeline, r).result(),
            f"batched, up to {max_batch}": lambda r: batcher.submit(r).result(),
        }
        for serve in servers.values():
            serve(request)
        points: dict[str, list[Point]] = {name: [] for name in servers}
        each = len(paths) * len(servers)
        for done, load in enumerate(loads):
            rate = load / picture
            left = [n for n, found in points.items() if not exceeded(found, limit * picture)]
            seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in left}
            for turn, (came, name) in enumerate((came, name) for came in paths for name in left):
                progress(done * each + turn, len(loads) * each)
                seconds[name].append(waits(servers[name], request, came / rate))
            for name, found in seconds.items():
                points[name].append(Point(rate, tuple(found)))
        progress(len(loads) * each, len(loads) * each)
    one, other = (Curve(name, limit * picture, tuple(found)) for name, found in points.items())
    return one, other


def path(seed: int, count: int) -> NDArray[np.float64]:
    """When `count` requests come, in seconds, of a Poisson process of one a second."""
    return np.random.default_rng(seed).exponential(1.0, count).cumsum()


def waits(serve: Serve, request: Request, came: NDArray[np.float64]) -> tuple[float, ...]:
    """The seconds that requests wait which come at these, their seeds following each other."""
    with ThreadPoolExecutor(len(came)) as pool:
        begun = time.perf_counter()

        def wait(number: int) -> float:
            serve(request.with_values(seed=number))
            return time.perf_counter() - begun - float(came[number])

        waiting: list[Future[float]] = []
        for number, moment in enumerate(came):
            time.sleep(max(0.0, begun + float(moment) - time.perf_counter()))
            waiting.append(pool.submit(wait, number))
        return tuple(each.result() for each in waiting)
