"""The arrivals that a server can bear: where its curve reaches the limit, and how sure that is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from latentrt.benchmarks.latency.goodput import Bound, Curve, Point, borne, exceeded, gain
from latentrt.benchmarks.latency.verdict import goodputs


def flat(rate: float, wait: float, paths: int = 6) -> Point:
    """Everybody waits the same."""
    return Point(rate, ((wait,),) * paths)


def curve(*waits: float, server: str = "one", limit: float = 0.7, paths: int = 6) -> Curve:
    """Rates of 1, 2, ... a second."""
    points = (flat(float(n), wait, paths) for n, wait in enumerate(waits, 1))
    return Curve(server, limit, tuple(points))


@pytest.mark.parametrize(
    ("late", "limit", "rate"),
    [
        ([0.2, 0.4, 1.0], 0.7, 2.5),  # half way from 0.4 to 1.0
        ([0.2, 0.9, 0.4, 1.0], 0.7, 3.5),  # one alone is chance
        ([0.2, 0.9, 0.8, 0.4], 0.55, 1.5),  # two in a row are not, whatever follows
        ([0.2, 0.4, 1.0], 1.0, 3.0),  # it does not exceed it
        ([0.9, 0.8], 0.7, 1.0),  # nothing is known below the first
    ],
)
def test_goodput_is_where_the_wait_reaches_its_limit_for_good(
    late: list[float], limit: float, rate: float
) -> None:
    assert borne([float(n) for n in range(1, 5)][: len(late)], late, limit) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("waits", "bound"),
    [((0.2, 0.4), "at least"), ((0.9, 0.9), "at most"), ((0.2, 0.9), None), ((0.9,), "at most")],
)
def test_a_goodput_beyond_what_was_tried_is_a_bound(
    waits: tuple[float, ...], bound: Bound | None
) -> None:
    assert curve(*waits).bound == bound
    assert curve(*waits).to_json()["bound"] == bound


def test_two_rates_in_a_row_exceed_the_limit_and_one_does_not() -> None:
    assert not exceeded([flat(1.0, 0.9)], 0.7)
    assert not exceeded([flat(1.0, 0.9), flat(2.0, 0.6)], 0.7)
    assert exceeded([flat(1.0, 0.6), flat(2.0, 0.8), flat(3.0, 0.9)], 0.7)


def test_percentiles_are_of_the_requests_of_all_paths() -> None:
    rng = np.random.default_rng(4)
    waits = rng.exponential(1.0, (6, 16))
    point = Point(1.0, tuple(map(tuple, waits.tolist())))
    assert point.p50 == pytest.approx(np.percentile(waits.ravel(), 50))
    assert point.p95 == pytest.approx(np.percentile(waits.ravel(), 95))


def test_an_interval_is_as_wide_as_paths_differ() -> None:
    # Six paths alike have no interval.
    same = curve(0.4, 1.0).interval
    assert (same.value, same.low, same.high) == (1.5, 1.5, 1.5)
    # At 2 a second three paths wait 1 s and three 2 s: a resample of six has the slow ones in it
    # but in one of 64, and waits 2 s at the 95th percentile unless there are none. Its goodput is
    # 1 + 0.3 / 1.6, without them 1.5: the other 63 of 64 are more than 97.5 %.
    slow = Point(2.0, ((1.0,) * 20,) * 3 + ((2.0,) * 20,) * 3)
    mixed = Curve("one", 0.7, (flat(1.0, 0.4), slow)).interval
    assert mixed.value == pytest.approx(1 + 0.3 / 1.6)
    assert (mixed.low, mixed.high) == (pytest.approx(1 + 0.3 / 1.6), pytest.approx(1 + 0.3 / 1.6))


def test_a_curve_is_the_same_after_json() -> None:
    made = curve(0.4, 1.0)
    assert Curve.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_the_gain_is_a_ratio_and_none_where_a_goodput_is_a_bound() -> None:
    one, other = curve(0.4, 1.0), curve(0.1, 0.4, 1.0, server="other")
    found = gain((one, other))
    assert found is not None
    assert found.value == pytest.approx(2.5 / 1.5)
    assert gain((one, curve(0.1, 0.2))) is None
    assert gain(()) is None


def test_paths_that_are_slow_for_both_do_not_widen_the_gain() -> None:
    # Each path waits as much longer at 2 a second with either server: the ratio is always 1.
    rng = np.random.default_rng(5)
    slow = Point(2.0, tuple((wait,) * 4 for wait in rng.uniform(0.8, 2.0, 6).tolist()))
    both = [Curve(name, 0.7, (flat(1.0, 0.4), slow)) for name in ("one", "other")]
    found = gain(both)
    assert found is not None
    assert (found.low, found.high) == (1.0, 1.0)
    assert both[0].interval.low < both[0].interval.high


def test_a_goodput_has_a_verdict_and_more_of_it_is_faster() -> None:
    (found,) = goodputs([curve(0.1, 0.4, 1.0)], [curve(0.4, 1.0), curve(0.4, 1.0, server="gone")])
    assert (found.row, found.runs, found.word) == ("goodput, one", 6, "faster")
    assert (found.ratio, found.low, found.high) == (pytest.approx(2.5 / 1.5),) * 3


def test_a_goodput_that_is_a_bound_or_of_few_paths_is_unsure() -> None:
    (bound,) = goodputs([curve(0.1, 0.2, 0.3)], [curve(0.4, 1.0)])
    assert bound.remarks == "unsure, now at least 3.00 a second"
    (few,) = goodputs([curve(0.1, 0.4, 1.0, paths=5)], [curve(0.4, 1.0)])
    assert few.remarks == "unsure, 5 runs"
