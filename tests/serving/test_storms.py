"""Many requests, aborts and deadlines at once, in the size for every day."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.serving import storms
from tests.serving.live import Live, listening, service
from tests.serving.orders import alone, mixed

from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf


def test_a_cancelled_job_is_in_no_later_call(live: Live) -> None:
    assert storms.cancels(live, 8).failed == []


def test_a_client_that_goes_takes_its_rows_along(live: Live) -> None:
    assert storms.disconnects(live, 8).failed == []


def test_deadlines_end_their_own_jobs(live: Live) -> None:
    assert storms.deadlines(live, 6).failed == []


def test_every_picture_of_a_burst_is_the_one_drawn_alone(live: Live) -> None:
    bodies = mixed(20, ("heads", "lists"))
    expected = alone(bodies, live.service.shelf)
    assert storms.burst(live.url, bodies, expected, clients=10).failed == []


def test_too_many_requests_are_refused_and_the_others_are_drawn(
    bundle: Callable[[str], Path],
) -> None:
    limits = Limits(drawing=2, queued=2)
    with listening(service(Shelf((bundle("heads"),)), limits)) as small:
        outcome = storms.overload(small.url, 40, places=4, timed=False)
    assert outcome.failed == []
    assert outcome.figures["admitted"] >= 4
