"""Requests that arrive at random: which rates are tried, by which paths."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from latentrt.benchmarks.latency import arrivals
from latentrt.benchmarks.latency.arrivals import curves, path, waits
from latentrt.benchmarks.latency.goodput import Curve
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
    late: dict[str, list[float]],
    loads: tuple[float, ...],
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[tuple[Curve, Curve], list[tuple[str, int]], list[tuple[int, int]]]:
    """Curves of servers whose requests wait this long at each rate, of pictures of 2 s.

    With whose paths of how many requests took turns, and what was heard.
    """
    names: dict[int, str] = {}
    turns: list[tuple[str, int]] = []
    paths = min(6, count)

    def fake(serve: Any, request: Request, came: Any) -> tuple[float, ...]:
        assert request == REQUEST
        name = names.setdefault(id(serve), list(late)[len(names) % len(late)])
        done = sum(each == name for each, _ in turns)
        turns.append((name, len(came)))
        return (late[name][done // paths],) * len(came)

    monkeypatch.setattr(arrivals, "waits", fake)
    heard: list[tuple[int, int]] = []
    found = curves(
        cast("Pipeline", Idle()),
        REQUEST,
        2.0,
        count=count,
        loads=loads,
        limit=4.0,
        progress=lambda done, total: heard.append((done, total)),
    )
    return found, turns, heard


def test_a_server_is_tried_no_more_after_two_rates_in_a_row_and_the_other_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The limit is 8 s. Alone, one rate beyond it is followed by one within; then come two.
    late = {"alone": [4.0, 12.0, 4.0, 12.0, 12.0], "batched": [2.0, 3.0, 5.0, 6.0, 7.0, 7.0]}
    loads = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    (alone, batched), _, heard = measured(late, loads, 1, monkeypatch)
    assert [p.rate for p in alone.points] == [0.5, 1.0, 1.5, 2.0, 2.5]
    # Half way from 4 s at 1.5 a second to 12 s at 2.
    assert (alone.limit, alone.goodput, alone.bound) == (8.0, 1.75, None)
    assert [p.rate for p in batched.points] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert (batched.goodput, batched.bound) == (3.0, "at least")
    # A path of each at each of six rates; of the last rate one of them is left out.
    assert heard == [*((n, 12) for n in range(11)), (12, 12)]


def test_a_rates_requests_are_shared_by_six_paths_that_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = {"alone": [1.0], "batched": [1.0]}
    (alone, batched), turns, _ = measured(late, (1.0,), 40, monkeypatch)
    # Six of six: 36, the most that are no more than 40.
    assert turns == [("alone", 6), ("batched", 6)] * 6
    assert [len(path) for path in alone.points[0].waits] == [6] * 6
    assert batched.paths == 6


@pytest.mark.parametrize("count", [1, 5])
def test_of_fewer_requests_than_paths_each_is_a_path(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = {"alone": [1.0], "batched": [1.0]}
    (alone, _), _, _ = measured(late, (1.0,), count, monkeypatch)
    assert [len(path) for path in alone.points[0].waits] == [1] * count


def test_paths_are_independent_and_each_is_the_same_every_time() -> None:
    first, second = (path(seed, 2000) for seed in (0, 1))
    assert np.array_equal(first, path(0, 2000))
    gaps = np.diff(first), np.diff(second)
    # Exponential gaps of mean 1 and deviation 1: 4 standard errors of 1 / sqrt(1999).
    for each in gaps:
        assert abs(each.mean() - 1.0) < 4 / 1999**0.5
    assert abs(np.corrcoef(*gaps)[0, 1]) < 4 / 1999**0.5


def test_every_arrival_is_served_once_with_its_own_seed() -> None:
    served: list[int | None] = []
    found = waits(lambda request: served.append(request.seed), REQUEST, path(0, 9) / 1000.0)
    assert sorted(seed for seed in served if seed is not None) == list(range(9))
    assert len(found) == 9
    assert all(each > 0 for each in found)
