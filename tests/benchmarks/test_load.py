"""Closed and open loops over a server of known speed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from latentrt.benchmarks.latency.load import (
    arrivals,
    closed_loop,
    open_loop,
    throughput,
    unet_rows,
)
from latentrt.bundle.manifest import Manifest
from latentrt.runtime import Pipeline, Request, Result, Sampling

Bundles = Callable[[str], Path]
REQUEST = Request("a red circle", seed=5, guidance=3.0, sampling=Sampling(steps=1))


class Server:
    """Takes 20 ms a request; remembers seeds, and the most requests at once."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Result:
        with self._lock:
            self.seeds.append(request.seed)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.02)
        with self._lock:
            self.at_once -= 1
        return cast("Result", request)


def test_a_closed_loop_has_as_many_requests_at_once_as_clients() -> None:
    serve = Server()
    results, waits = closed_loop(serve, REQUEST, 3, 9, limit=60.0)
    assert (serve.most, sorted(cast("list[int]", serve.seeds))) == (3, [*range(5, 14)])
    assert len(results) == len(waits) == 9
    assert cast("Any", results[0]).seed == 5
    assert min(waits) >= 0.02


def test_a_closed_loop_ends_at_its_limit_after_one_request_a_client() -> None:
    serve = Server()
    closed_loop(serve, REQUEST, 2, 1000, limit=0.0)
    assert len(serve.seeds) == 2


def test_arrivals_come_on_time_and_are_timed_from_then() -> None:
    lock = threading.Lock()
    serve = Server()

    def one_at_a_time(request: Request) -> Result:
        with lock:
            return serve(request)

    waits = open_loop(one_at_a_time, REQUEST, [0.0, 0.0, 1.0])
    # Two come at once and are served one after the other: 20 and 40 ms.
    assert min(waits[:2]) >= 0.02
    assert max(waits[:2]) >= 0.04
    # The third comes a second later and finds the server idle.
    assert 0.02 <= waits[2] < 1.0


def test_throughput_and_arrivals_are_measured_alone_and_in_batches(bundle: Bundles) -> None:
    done: list[tuple[int, int]] = []
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        rows = unet_rows(pipeline.bundle.manifest, REQUEST)
        found = throughput(
            pipeline, REQUEST, rows, (2,), requests=3, limit=60.0,
            progress=lambda *far: done.append(far),
        )  # fmt: skip
        waited = arrivals(
            pipeline, REQUEST, rows, 2, 0.01, requests=2, progress=lambda *far: done.append(far)
        )
    assert [(row.name, row.clients, len(row.waits.seconds)) for row in found] == [
        ("one at a time", 1, 3),
        ("batch 2", 2, 3),
    ]
    # The same request: equal alone, and in fp32 rounding in a call of another batch size.
    assert found[0].difference == 0.0
    assert found[1].difference < 1e-4
    assert {row.server for row in waited} == {"one at a time", "batches up to 2"}
    assert [row.rate for row in waited][:4] == pytest.approx([50.0, 80.0, 110.0, 150.0])
    assert done[-1] == (8, 8)


def test_an_image_has_two_rows_with_guidance_and_one_of_a_distilled_model() -> None:
    def rows(request: Request, *inputs: str) -> int:
        unet = SimpleNamespace(inputs=[SimpleNamespace(name=name) for name in inputs])
        return unet_rows(cast("Manifest", SimpleNamespace(components={"unet": unet})), request)

    assert rows(REQUEST, "sample") == 2
    assert rows(REQUEST.with_values(guidance=1.0), "sample") == 1
    assert rows(REQUEST, "sample", "timestep_cond") == 1
