"""Clients that mean harm: they are refused at once, and the others are served."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from tests.serving.bad_bodies import bomb, coded
from tests.serving.live import Live

QUICK: dict[str, Any] = {"prompt": "a fox", "num_inference_steps": 2}


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "(" * 1_000_000},
        {"prompt": "a", "task": {"name": "image_to_image", "image": coded(bomb())}},
        {"prompt": "a", "task": {"name": "image_to_image", "image": "A" * 40_000_000}},
        {"prompt": "a", "composed": [["b", 1.0]] * 100_000},
        {"prompt": "a AND " * 1000},
    ],
    ids=["brackets", "image bomb", "large text", "many prompts", "many ANDs"],
)
def test_it_is_refused_within_seconds(live: Live, body: dict[str, Any]) -> None:
    begun = time.monotonic()
    answer = httpx.post(f"{live.url}/v1/jobs", json=body, timeout=60)
    # A second on a quiet machine, and much less than drawing any of it would take.
    assert time.monotonic() - begun < 5
    assert answer.status_code in (400, 413, 422)


def test_many_brackets_are_drawn(live: Live) -> None:
    body = QUICK | {"prompt": "((a [b] c:1.1) " * 20}
    answer = httpx.post(f"{live.url}/v1/images/generations", json=body, timeout=60)
    assert answer.status_code == 200


def test_slow_clients_do_not_hold_up_the_others(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    ended = threading.Event()
    connections = [socket.create_connection((host, int(port)), timeout=10) for _ in range(50)]

    def drip() -> None:
        for number in range(10_000):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.send(b"POST /v1/jobs HTTP/1.1\r\nx: "[number : number + 1] or b"a")
            if ended.wait(0.02):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        answer = httpx.post(f"{live.url}/v1/images/generations", json=QUICK, timeout=30)
        assert answer.status_code == 200
    finally:
        ended.set()
        thread.join()
        for connection in connections:
            connection.close()
