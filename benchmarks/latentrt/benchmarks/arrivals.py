"""Requests that come when they come: how long each waits, one at a time and batched.

Arrivals are a Poisson process and wait for nobody (an open loop), so a server that falls behind is
seen to. What a request waits counts from when it came, not from when it was let in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from latentrt.runtime import Pipeline, Request

Serve = Callable[[Request], object]
"""Gives a request's pictures when they are ready; called from many threads."""

Progress = Callable[[int, int], None]
"""Told how many points are done or left out, and how many there are."""

LOADS: Final = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 1.9, 2.4)
"""Arrivals in the time of one picture at which a server is tried."""
LIMIT: Final = 4.0
"""What 95 of 100 requests may take, in times of one picture that is served alone."""


@dataclass(frozen=True, slots=True)
class Point:
    """`rate` is arrivals a second; the percentiles are of seconds from coming to the picture."""

    rate: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A server's points, the slower arrivals first, and the arrivals a second that it can bear.

    `goodput` is the rate at which `p95` reaches the limit; where it stays below, the greatest that
    was tried, and `open_ended` is true.
    """

    server: str
    points: tuple[Point, ...]
    goodput: float
    open_ended: bool


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

    `picture` is the seconds of one that is served alone, `count` the requests of each point.
    A server is tried until it exceeds the limit. The points of both take turns.
    """
    with pipeline.batcher(max_batch=max_batch) as batcher, ThreadPoolExecutor(1) as alone:
        servers: dict[str, Serve] = {
            "one at a time": lambda r: alone.submit(pipeline, r).result(),
            f"batched, up to {max_batch}": lambda r: batcher.submit(r).result(),
        }
        for serve in servers.values():
            serve(request)
        points: dict[str, list[Point]] = {name: [] for name in servers}
        total = len(loads) * len(servers)
        for done, load in enumerate(loads):
            for number, (name, serve) in enumerate(servers.items()):
                progress(done * len(servers) + number, total)
                if points[name] and points[name][-1].p95 > limit * picture:
                    continue
                points[name].append(point(serve, request, load / picture, count))
        progress(total, total)
    one, other = (_curve(name, found, limit * picture) for name, found in points.items())
    return one, other


def point(serve: Serve, request: Request, rate: float, count: int) -> Point:
    """What `count` requests of one kind wait, the seeds following each other."""
    came = np.random.default_rng(0).exponential(1 / rate, count).cumsum()
    with ThreadPoolExecutor(count) as pool:
        begun = time.perf_counter()

        def wait(number: int) -> float:
            serve(request.with_values(seed=number))
            return time.perf_counter() - begun - float(came[number])

        waiting: list[Future[float]] = []
        for number, moment in enumerate(came):
            time.sleep(max(0.0, begun + float(moment) - time.perf_counter()))
            waiting.append(pool.submit(wait, number))
        found = [each.result() for each in waiting]
    p50, p95 = (float(np.percentile(found, n)) for n in (50, 95))
    return Point(rate, p50, p95)


def _curve(server: str, points: Sequence[Point], limit: float) -> Curve:
    rate = goodput(points, limit)
    return Curve(server, tuple(points), rate or points[-1].rate, rate is None)


def goodput(points: Sequence[Point], limit: float) -> float | None:
    """The rate at which the 95th percentile first reaches the limit, between two points linearly.

    None where it does not; below the first point that waits too long, in proportion.
    """
    before = Point(0.0, 0.0, 0.0)
    for each in points:
        if each.p95 > limit:
            share = (limit - before.p95) / (each.p95 - before.p95)
            return before.rate + share * (each.rate - before.rate)
        before = each
    return None
