"""What a service remembers of jobs that are over. The painter is a stub; the clock is set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from latentrt.runtime import Request
from latentrt.serving.job import Job
from latentrt.serving.jobs import Jobs
from latentrt.serving.limits import Limits
from latentrt.serving.order import Order
from latentrt.serving.painter import Drawn
from latentrt.serving.problem import Refused


class Stub:
    """Draws a file of 100 bytes for each picture, at once."""

    def draw(self, order: Order, *_: Any) -> Drawn:
        count = order.request.num_images
        return Drawn((bytes(100),) * count, (order.request,) * count, ("",) * count, (), 0.1, {})


async def drawn(jobs: Jobs, name: str, count: int = 1) -> Job:
    job = jobs.submit(Order("m", Request("a fox", seed=1, num_images=count)), "me", "jobs", name)
    await job.wait()
    return job


def told(jobs: Jobs, name: str) -> int:
    """The HTTP status that asking for a job gives."""
    try:
        jobs.get(name)
    except Refused as refused:
        return refused.problem.status
    return 200


def during(limits: Limits, test: Callable[[Jobs], Any]) -> None:
    async def whole() -> None:
        jobs = Jobs(Stub(), limits)  # pyright: ignore[reportArgumentType]
        try:
            await test(jobs)
        finally:
            jobs.close()

    asyncio.run(whole())


def test_the_first_that_ended_are_forgotten_when_files_take_too_much() -> None:
    async def test(jobs: Jobs) -> None:
        for name in ("a", "b", "c"):
            await drawn(jobs, name)
        assert [told(jobs, name) for name in "abc"] == [200, 200, 200]
        await drawn(jobs, "d", count=2)
        # 500 bytes were drawn, 350 may stay: 300 do.
        assert [told(jobs, name) for name in "abcd"] == [410, 410, 200, 200]
        assert [job.id for job in jobs] == ["c", "d"]
        assert told(jobs, "e") == 404

    during(Limits(kept=350), test)


def test_a_job_is_forgotten_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(jobs: Jobs) -> None:
        begun = time.time()
        await drawn(jobs, "a")
        monkeypatch.setattr(time, "time", lambda: begun + 6)
        await drawn(jobs, "b")
        monkeypatch.setattr(time, "time", lambda: begun + 11)
        assert [told(jobs, name) for name in "ab"] == [410, 200]

    during(Limits(kept_for=10), test)


def test_a_job_that_is_given_up_frees_its_room() -> None:
    async def test(jobs: Jobs) -> None:
        jobs.forget(await drawn(jobs, "a", count=3))
        jobs.forget(await drawn(jobs, "b", count=3))
        await drawn(jobs, "c", count=3)
        # Not 410: its client has the pictures.
        assert [told(jobs, name) for name in "abc"] == [404, 404, 200]

    during(Limits(kept=350), test)


def test_forgetting_a_job_leaves_the_next_one_of_its_name() -> None:
    async def test(jobs: Jobs) -> None:
        first = await drawn(jobs, "a")
        jobs.forget(first)
        await drawn(jobs, "a")
        jobs.forget(first)
        assert told(jobs, "a") == 200

    during(Limits(), test)


def test_what_many_finished_jobs_cost_does_not_grow_with_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(jobs: Jobs) -> None:
        sized = 0
        size = Job.size.fget
        assert size is not None

        def counted(job: Job) -> int:
            nonlocal sized
            sized += 1
            return size(job)

        monkeypatch.setattr(Job, "size", property(counted))
        for number in range(50):
            await drawn(jobs, f"{number}")
            jobs.get(f"{number}")
        assert sized == 50

    during(Limits(), test)
