"""`latentrt serve` and signals: the first SIGTERM drains, the second ends."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving.process import Process, serving

LONG: dict[str, Any] = {"prompt": "a square", "num_inference_steps": 150, "n": 4}


@pytest.fixture
def heads(bundle: Callable[[str], Path]) -> Path:
    return bundle("heads")


def ask(process: Process, answers: list[httpx.Response]) -> threading.Thread:
    def send() -> None:
        url = f"{process.url}/v1/images/generations"
        try:
            answers.append(httpx.post(url, json=LONG, timeout=120))
        except httpx.HTTPError as error:
            answers.append(httpx.Response(599, text=str(error)))

    thread = threading.Thread(target=send)
    thread.start()
    until = time.monotonic() + 30
    while b"requests_running 1" not in httpx.get(f"{process.url}/metrics").content:
        assert time.monotonic() < until
        time.sleep(0.01)
    return thread


def test_sigterm_finishes_what_was_admitted_and_refuses_the_rest(heads: Path) -> None:
    with serving(heads) as process:
        answers: list[httpx.Response] = []
        thread = ask(process, answers)
        job = httpx.post(f"{process.url}/v1/jobs", json={"prompt": "a", "id": "polled"}).json()
        process.signal(signal.SIGTERM)
        until = time.monotonic() + 10
        while (ready := httpx.get(f"{process.url}/health/ready")).status_code == 200:
            assert time.monotonic() < until
        assert ready.json()["phase"] == "draining"
        refused = httpx.post(f"{process.url}/v1/jobs", json={"prompt": "a"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        # Who polls gets what it submitted before.
        while (polled := httpx.get(process.url + job["poll_url"]).json())["status"] != "done":
            time.sleep(0.02)
        assert httpx.get(process.url + polled["images"][0]).status_code == 200
        thread.join()
        assert process.end() == 0
    (answer,) = answers
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 4


def test_a_second_sigterm_ends_at_once(heads: Path) -> None:
    with serving(heads) as process:
        answers: list[httpx.Response] = []
        thread = ask(process, answers)
        process.signal(signal.SIGTERM)
        time.sleep(0.2)
        begun = time.monotonic()
        process.signal(signal.SIGTERM)
        process.end()
        thread.join()
        # The picture alone would take longer.
        assert time.monotonic() - begun < 10
    assert answers[0].status_code in (499, 599)


def test_after_sigkill_the_next_start_serves(heads: Path) -> None:
    with serving(heads) as process:
        thread = ask(process, [])
        process.signal(signal.SIGKILL)
        assert process.end() == -signal.SIGKILL
        thread.join()
    with serving(heads) as process:
        answer = httpx.post(
            f"{process.url}/v1/images/generations",
            json={"prompt": "a", "num_inference_steps": 2},
            timeout=60,
        )
        assert answer.status_code == 200


def test_a_service_whose_model_is_damaged_says_so_and_ends(heads: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(heads, damaged)
    weights = next((damaged / "weights").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with serving(damaged, ready=False) as process:
        assert process.end(60) == 2
        assert any("models: expected a default model that draws" in line for line in process.lines)
        assert not any("Traceback" in line for line in process.lines)
