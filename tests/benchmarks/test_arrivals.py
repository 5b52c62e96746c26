"""Requests that arrive at random: which rates are tried, and what they say."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from latentrt.benchmarks import arrivals
from latentrt.benchmarks.arrivals import Curve, Point, curves, goodput, point
from latentrt.runtime import Pipeline, Request

REQUEST = Request("a red circle")


class Idle:
    """A pipeline, and a batcher, that take no time."""

    def __call__(self, request: Request) -> Any:
        return request

    @contextmanager
    def batcher(self, *, max_batch: int) -> Generator[Any]:
        del max_batch
        yield SimpleNamespace(submit=lambda request: SimpleNamespace(result=lambda: request))


def measured(
    waits: dict[str, list[float]], loads: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> tuple[tuple[Curve, Curve], list[tuple[int, int]]]:
    """Curves of servers whose points wait this long, of pictures of 2 s; what was heard."""
    turns = {name: iter(found) for name, found in waits.items()}
    asked: dict[int, str] = {}

    def fake(serve: Any, request: Request, rate: float, count: int) -> Point:
        assert (request, count) == (REQUEST, 3)
        if id(serve) not in asked:
            asked[id(serve)] = list(waits)[len(asked)]
        return Point(rate, 0.0, next(turns[asked[id(serve)]]))

    monkeypatch.setattr(arrivals, "point", fake)
    heard: list[tuple[int, int]] = []
    found = curves(
        cast("Pipeline", Idle()),
        REQUEST,
        2.0,
        count=3,
        loads=loads,
        limit=4.0,
        progress=lambda done, total: heard.append((done, total)),
    )
    return found, heard


def test_a_server_is_tried_no_more_once_it_is_too_late_and_the_other_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The limit is 8 s. One at a time passes it at the second rate, 1 a second, half way from 4 s to
    # 12 s; the batcher never does.
    waits = {"alone": [4.0, 12.0], "batched": [2.0, 3.0, 5.0]}
    (alone, batched), heard = measured(waits, (1.0, 2.0, 3.0), monkeypatch)
    assert [p.rate for p in alone.points] == [0.5, 1.0]
    assert (alone.goodput, alone.open_ended) == (0.75, False)
    assert [p.rate for p in batched.points] == [0.5, 1.0, 1.5]
    assert (batched.goodput, batched.open_ended) == (1.5, True)
    assert heard == [(n, 6) for n in range(7)]


def test_a_server_that_is_too_late_at_once_has_one_point(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = {"alone": [16.0], "batched": [16.0]}
    (alone, batched), _ = measured(waits, (1.0, 2.0), monkeypatch)
    for curve in (alone, batched):
        # In proportion: 8 s of 16 s at half the rate.
        assert (len(curve.points), curve.goodput, curve.open_ended) == (1, 0.25, False)


def test_goodput_is_where_the_wait_reaches_its_limit() -> None:
    points = [Point(1.0, 0.1, 0.2), Point(2.0, 0.2, 0.4), Point(3.0, 0.9, 1.0)]
    assert goodput(points, 0.7) == pytest.approx(2.5)
    assert goodput(points, 1.0) is None
    assert goodput(points, 0.1) == pytest.approx(0.5)


def test_every_arrival_is_served_once_with_its_own_seed() -> None:
    served: list[int | None] = []
    found = point(lambda request: served.append(request.seed), REQUEST, rate=1000.0, count=9)
    assert sorted(seed for seed in served if seed is not None) == list(range(9))
    assert 0 < found.p50 <= found.p95
