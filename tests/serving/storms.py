"""Storms: many requests, aborts and faults at once. Each tells what failed, and its figures.

`make test` runs them small, `make scorecard` in the size of docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from tests.serving.live import Live
from tests.serving.orders import Pixels, pixels

LONG: dict[str, Any] = {"prompt": "a square", "sampling": {"steps": 40}, "num_images": 2}


@dataclass
class Outcome:
    """How many were tried, what failed, and figures by name."""

    tried: int
    failed: list[str] = field(default_factory=list[str])
    figures: dict[str, float] = field(default_factory=dict[str, float])


def cancels(live: Live, count: int, seed: int = 0) -> Outcome:
    """Cancel a job at a random moment; it must be in no call that begins after the answer."""
    return _endings(live, count, seed, _cancel)


def disconnects(live: Live, count: int, seed: int = 0) -> Outcome:
    """Close a client's connection at a random moment; the same must hold a moment later."""
    return _endings(live, count, seed, _disconnect)


def _endings(live: Live, count: int, seed: int, end: Callable[[Live, float], None]) -> Outcome:
    chance, outcome, painter = random.Random(seed), Outcome(count), live.service.painter
    begun = time.perf_counter()
    _draw(live, LONG)
    whole, late, slowest = time.perf_counter() - begun, 0, 0.0
    for number in range(count):
        end(live, chance.uniform(0, whole))
        calls, left = painter.load.calls, time.perf_counter()
        if not _until(lambda: painter.load.pictures == 0 and live.service.jobs.running == 0, 20):
            outcome.failed.append(f"{number}: {painter.load}")
        after, took = painter.load.calls - calls, time.perf_counter() - left
        late, slowest = max(late, after), max(slowest, took)
        # One call is being made; the event loop may need another to see that a client has gone.
        if after > 2:
            outcome.failed.append(f"{number}: {after} more calls in {took:.2f} s")
    outcome.figures |= {"calls_after_at_most": late, "seconds_at_most": slowest}
    return outcome


def _cancel(live: Live, wait: float) -> None:
    job = httpx.post(f"{live.url}/v1/jobs", json=LONG).json()
    time.sleep(wait)
    assert httpx.delete(live.url + job["poll_url"]).status_code == 200


def _disconnect(live: Live, wait: float) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    body = b'{"prompt": "a square", "n": 2, "num_inference_steps": 40}'
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: {host}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(wait)


def deadlines(live: Live, count: int, seed: int = 0) -> Outcome:
    """Jobs with deadlines too short for them end with 504."""
    chance, outcome = random.Random(seed), Outcome(count)
    for number in range(count):
        body = {**LONG, "deadline": chance.uniform(0.001, 0.05)}
        status = _draw(live, body)["error"]
        if status is None or status["status"] != 504:
            outcome.failed.append(f"{number}: {status}")
    if not _until(lambda: live.service.painter.load.pictures == 0, 20):
        outcome.failed.append(f"{live.service.painter.load}")
    return outcome


def burst(
    url: str, bodies: Sequence[Mapping[str, Any]], expected: Sequence[Pixels], clients: int
) -> Outcome:
    """All bodies at once, from so many clients: each picture is the one that is drawn alone."""
    outcome = Outcome(len(bodies))
    waiting = list(enumerate(bodies))
    took: list[float] = []

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as session:
            while waiting:
                number, body = waiting.pop(0)
                begun = time.perf_counter()
                content = await _drawn(session, body)
                took.append(time.perf_counter() - begun)
                if content is None:
                    outcome.failed.append(f"{number}: lost")
                elif not np.array_equal(pixels(content), expected[number]):
                    outcome.failed.append(f"{number}: another picture")

    async def every() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    begun = time.perf_counter()
    asyncio.run(every())
    outcome.figures["seconds"] = time.perf_counter() - begun
    outcome.figures["seconds_of_a_request_at_most"] = max(took)
    return outcome


async def _drawn(session: httpx.AsyncClient, body: Mapping[str, Any]) -> bytes | None:
    """Submit, wait for the end of the events, and fetch the picture."""
    answer = await session.post("/v1/jobs", json=body)
    while answer.status_code == 429:
        await asyncio.sleep(0.1)
        answer = await session.post("/v1/jobs", json=body)
    if answer.status_code != 202:
        return None
    job = answer.json()
    await session.get(job["events_url"])
    images = (await session.get(job["poll_url"])).json()["images"]
    return (await session.get(images[0])).content if images else None


def overload(url: str, count: int, places: int, *, timed: bool) -> Outcome:
    """Ten times more requests than `places`: some are refused, the others are not slowed down.

    An admitted one waits at most for those before it: `places` of them. That is judged where the
    machine is quiet enough to be `timed`.
    """
    outcome = Outcome(count)
    body = {"prompt": "a fox", "num_inference_steps": 8, "n": 1}
    statuses: list[int] = []
    took: list[float] = []

    async def one(session: httpx.AsyncClient) -> None:
        begun = time.perf_counter()
        answer = await session.post("/v1/images/generations", json=body)
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            took.append(time.perf_counter() - begun)
        elif answer.status_code != 429 or "retry-after" not in answer.headers:
            outcome.failed.append(f"{answer.status_code}: {answer.text[:100]}")

    async def every() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as session:
            begun = time.perf_counter()
            await one(session)
            outcome.figures["seconds_alone"] = time.perf_counter() - begun
            await asyncio.gather(*(one(session) for _ in range(count)))

    asyncio.run(every())
    outcome.figures |= {
        "admitted": statuses.count(200) - 1,
        "refused": statuses.count(429),
        "seconds_at_most": max(took),
    }
    if not statuses.count(429):
        outcome.failed.append("none was refused")
    # Pictures that share calls take longer than one alone, and never longer than one by one.
    if timed and max(took) > 2 * places * outcome.figures["seconds_alone"]:
        outcome.failed.append(f"an admitted one took {max(took):.2f} s")
    return outcome


def _draw(live: Live, body: Mapping[str, Any]) -> dict[str, Any]:
    job = httpx.post(f"{live.url}/v1/jobs", json=body).json()
    httpx.get(live.url + job["events_url"], timeout=120)
    return httpx.get(live.url + job["poll_url"]).json()


def _until(done: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
