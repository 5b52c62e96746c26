"""Many requests: throughput by batch in a closed loop, and waiting times of Poisson arrivals.

In a closed loop as many clients as a batch has images each send the next request when the previous
one is finished. Arrivals are an open loop: no request waits for another to finish, so a server that
falls behind shows. A wait counts from the moment a request arrives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from latentrt.benchmarks.samples import Samples
from latentrt.bundle.golden import Difference
from latentrt.bundle.manifest import Manifest
from latentrt.runtime import Pipeline, Request, Result

Serve = Callable[[Request], Result]
"""Gives a request's images when they are finished; called from many threads."""
Progress = Callable[[int, int], None]
"""Told how many measurements are done, and how many there are."""

LOADS: Final = (0.5, 0.8, 1.1, 1.5)
"""Arrivals in the time of one image."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """A closed loop of `clients`; `batch` None draws one request after the other.

    `rate` is images a second, `waits` the seconds of each request. `difference` is the relative
    difference of an image's latents from those of the same request drawn alone.
    """

    batch: int | None
    clients: int
    rate: float
    waits: Samples
    difference: float

    @property
    def name(self) -> str:
        """What tables call it."""
        return "one at a time" if self.batch is None else f"batch {self.batch}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "name": self.name,
            "batch": self.batch,
            "clients": self.clients,
            "images_per_second": self.rate,
            "p95": self.waits.percentile(95),
            "difference": self.difference,
            **self.waits.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What requests wait for a `server` at one `rate` of Poisson arrivals a second."""

    server: str
    rate: float
    waits: Samples

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        p95 = self.waits.percentile(95)
        return {"server": self.server, "rate": self.rate, "p95": p95, **self.waits.to_json()}


def unet_rows(manifest: Manifest, request: Request) -> int:
    """U-Net rows of one image: two with guidance, one without, and one of a distilled model."""
    distilled = any(s.name == "timestep_cond" for s in manifest.components["unet"].inputs)
    return 1 if distilled or not request.guidance.active else 2


def throughput(
    pipeline: Pipeline,
    request: Request,
    rows: int,
    batches: Sequence[int],
    *,
    requests: int,
    limit: float,
    progress: Progress,
) -> tuple[Throughput, ...]:
    """One request at a time, then each batch size, in images of `rows` U-Net rows each.

    A closed loop serves that many `requests`, fewer where they would take more than `limit`
    seconds, and at least one for each client.
    """
    alone = pipeline(request).latents
    found: list[Throughput] = []
    for done, batch in enumerate((None, *batches)):
        progress(done, len(batches) + 1)
        clients = batch or 1
        with server(pipeline, rows, batch) as serve:
            # The first of each client compiles what is missing, and does not count.
            firsts, _ = closed_loop(serve, request, clients, clients, limit)
            begun = time.perf_counter()
            _, waits = closed_loop(serve, request, clients, max(requests, clients), limit)
            seconds = time.perf_counter() - begun
        difference = Difference.between(firsts[0].latents, alone).relative
        rate = len(waits) / seconds
        found.append(Throughput(batch, clients, rate, Samples.of(waits), difference))
    progress(len(batches) + 1, len(batches) + 1)
    return tuple(found)


def arrivals(
    pipeline: Pipeline,
    request: Request,
    rows: int,
    batch: int,
    image: float,
    *,
    requests: int,
    progress: Progress,
) -> tuple[Arrivals, ...]:
    """Poisson arrivals at rates around one request in `image` seconds, a warm image's time.

    One request at a time, then a batcher of up to `batch` images, at the same moments.
    """
    moments = np.random.default_rng(0).exponential(1.0, requests).cumsum()
    found: list[Arrivals] = []
    total = 2 * len(LOADS)
    for name, size in (("one at a time", None), (f"batches up to {batch}", batch)):
        with server(pipeline, rows, size, up_to=True) as serve:
            serve(request)
            for load in LOADS:
                progress(len(found), total)
                rate = load / image
                waits = open_loop(serve, request, [float(m) / rate for m in moments])
                found.append(Arrivals(name, rate, Samples.of(waits)))
    progress(total, total)
    return tuple(found)


@contextmanager
def server(
    pipeline: Pipeline, rows: int, batch: int | None, *, up_to: bool = False
) -> Iterator[Serve]:
    """One request after the other, or a batcher for that many images of `rows` U-Net rows.

    The batcher is compiled for this batch size alone, or, with `up_to`, for smaller ones too.
    """
    if batch is None:
        with ThreadPoolExecutor(1) as one:
            yield lambda request: one.submit(pipeline, request).result()
        return
    sizes = None if up_to else (batch * rows,)
    with pipeline.batcher(max_batch=batch * rows, batch_sizes=sizes) as batcher:
        yield lambda request: batcher.submit(request).result()


def closed_loop(
    serve: Serve, request: Request, clients: int, requests: int, limit: float
) -> tuple[list[Result], list[float]]:
    """Results and waits of requests that differ in their seeds; the first is `request` itself.

    No client sends another request after `limit` seconds.
    """
    lock = threading.Lock()
    sent = 0
    results: dict[int, tuple[Result, float]] = {}
    until = time.perf_counter() + limit

    def client() -> None:
        nonlocal sent
        first = True
        while first or time.perf_counter() < until:
            first = False
            with lock:
                number, sent = sent, sent + 1
            if number >= requests:
                return
            begun = time.perf_counter()
            result = serve(request.with_values(seed=(request.seed or 0) + number))
            results[number] = result, time.perf_counter() - begun

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    ordered = [results[number] for number in sorted(results)]
    return [result for result, _ in ordered], [wait for _, wait in ordered]


def open_loop(serve: Serve, request: Request, moments: Sequence[float]) -> list[float]:
    """The seconds that requests wait which arrive at these moments, whatever is unfinished."""
    begun = time.perf_counter()

    def wait(number: int) -> float:
        serve(request.with_values(seed=number))
        return time.perf_counter() - begun - moments[number]

    with ThreadPoolExecutor(len(moments)) as pool:
        waiting: list[Any] = []
        for number, moment in enumerate(moments):
            time.sleep(max(0.0, begun + moment - time.perf_counter()))
            waiting.append(pool.submit(wait, number))
        return [each.result() for each in waiting]
