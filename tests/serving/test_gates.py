"""What a request passes before a route."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send
from tests.serving.live import Live, listening, service

from latentrt.serving import gates
from latentrt.serving.answers import path_of, problem_response
from latentrt.serving.gates import Gate, Gates, read_keys
from latentrt.serving.limits import Limits
from latentrt.serving.metrics import Metrics
from latentrt.serving.problem import Problem, Refused
from latentrt.serving.shelf import Shelf

KEYS = ("first-key", "second-key")
QUICK = {"prompt": "a fox", "sampling": {"steps": 2}}


@pytest.fixture(scope="module")
def guarded(bundle: Callable[[str], Path]) -> Iterator[Live]:
    """A service with keys, one allowed origin, and bodies of a megabyte at most."""
    gate = Gate(KEYS, ("https://good.example",), body=1 << 20)
    with listening(service(Shelf((bundle("heads"),)), Limits(body=1 << 20)), gate) as found:
        yield found


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first-key"},
        {"x-api-key": "second-key"},
        {"authorization": "Basic " + "dXNlcjpmaXJzdC1rZXk="},  # user:first-key
    ],
)
def test_a_key_lets_in(guarded: Live, headers: dict[str, str]) -> None:
    assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer third-key"},
        {"authorization": "Digest first-key"},
        {"authorization": "Basic %%%"},
        {"authorization": "Basic " + "dXNlcg=="},
        {"authorization": "Basic abcde"},  # no base64: a letter too many
        {"authorization": "Basic /w=="},  # no UTF-8
        {"authorization": b"Bearer caf\xe9"},
    ],
)
def test_no_key_or_another_keeps_out(guarded: Live, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{guarded.url}/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_probes_need_no_key(guarded: Live) -> None:
    for probe in ("live", "ready", "startup"):
        assert httpx.get(f"{guarded.url}/health/{probe}").status_code == 200
    assert httpx.get(f"{guarded.url}/metrics").status_code == 401


def test_a_job_is_its_clients_alone(guarded: Live) -> None:
    mine, other = ({"x-api-key": key} for key in KEYS)
    job = httpx.post(f"{guarded.url}/v1/jobs", json=QUICK | {"id": "own"}, headers=mine).json()
    url = guarded.url + job["poll_url"]
    assert httpx.get(url, headers=mine).status_code == 200
    assert httpx.get(url, headers=other).status_code == 404
    assert httpx.delete(url, headers=other).status_code == 404
    assert httpx.get(f"{guarded.url}/v1/jobs", headers=other).json() == []
    taken = httpx.post(f"{guarded.url}/v1/jobs", json=QUICK | {"id": "own"}, headers=other)
    assert taken.status_code == 409


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://good.example", 200), ("https://evil.example", 403), ("null", 403), ("own", 200)],
)
def test_a_page_of_another_site_may_not_ask(guarded: Live, origin: str, status: int) -> None:
    origin = guarded.url if origin == "own" else origin
    headers = {"origin": origin, "x-api-key": KEYS[0]}
    answer = httpx.get(f"{guarded.url}/v1/models", headers=headers)
    assert answer.status_code == status
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == (origin if origin == "https://good.example" else None)


def test_an_allowed_page_may_send_a_key(guarded: Live) -> None:
    headers = {
        "origin": "https://good.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    answer = httpx.options(f"{guarded.url}/v1/jobs", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://good.example"


def test_a_large_body_is_refused_before_it_is_sent(guarded: Live) -> None:
    host, port = guarded.url.removeprefix("http://").split(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /v1/jobs HTTP/1.1\r\nhost: {host}\r\nx-api-key: {KEYS[0]}\r\n"
        connection.sendall(f"{head}content-length: {1 << 30}\r\n\r\n".encode())
        answer = connection.recv(4096).decode()
    assert " 413 " in answer.partition("\r\n")[0]
    assert time.monotonic() - begun < 5


def test_a_body_without_a_length_ends_at_the_limit(guarded: Live) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * (1 << 16)

    headers = {"x-api-key": KEYS[0], "content-type": "application/json"}
    try:
        answer = httpx.post(f"{guarded.url}/v1/jobs", content=chunks(), headers=headers)
    except httpx.WriteError:
        return  # it was answered, and the connection closed, while more was sent
    assert answer.status_code == 413


def test_a_slow_body_is_given_up(guarded: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "BODY_SECONDS", 0.2)
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /v1/jobs HTTP/1.1\r\nhost: {host}\r\nx-api-key: {KEYS[0]}\r\n"
        connection.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        answer = connection.recv(4096).decode()
    assert " 408 " in answer.partition("\r\n")[0]


def test_each_answer_is_one_line_of_the_log(guarded: Live) -> None:
    lines: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("latentrt.serving"), Keeping()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        url = f"{guarded.url}/v1/models/a%0Ab"
        httpx.get(url, headers={"x-api-key": KEYS[0], "x-request-id": "name-1"})
        until = time.monotonic() + 10
        while not (own := [line for line in lines if line.startswith("id=name-1 ")]):
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        logger.removeHandler(handler)
    (line,) = own
    assert line.startswith("id=name-1 method=GET path=/v1/models/a%0Ab status=404 ")
    assert line.endswith("client=key 0")


def test_a_request_is_named_in_its_answer(guarded: Live) -> None:
    url = f"{guarded.url}/health/live"
    assert httpx.get(url, headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
    made = httpx.get(url, headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert len(made) == 32


def test_metrics_are_prometheus_text(guarded: Live) -> None:
    headers = {"x-api-key": KEYS[0]}
    job = httpx.post(f"{guarded.url}/v1/jobs", json=QUICK, headers=headers).json()
    while httpx.get(guarded.url + job["poll_url"], headers=headers).json()["status"] != "done":
        time.sleep(0.02)
    text = httpx.get(f"{guarded.url}/metrics", headers=headers).text
    families = {each.name: each for each in text_string_to_metric_families(text)}
    samples = {
        (each.name, each.labels.get("stage")): each.value
        for family in families.values()
        for each in family.samples
    }
    assert samples["latentrt_images_total", None] >= 1
    assert samples["latentrt_stage_duration_seconds_count", "unet"] >= 1
    used = samples["latentrt_batch_rows_used_total", None]
    assert 0 < used <= samples["latentrt_batch_rows_capacity_total", None]
    assert samples["latentrt_queue_depth", None] == 0
    assert families["latentrt_requests"].type == "counter"
    limits = families["latentrt_request_duration_seconds"].samples
    assert "600.0" in {each.labels.get("le") for each in limits}


def test_keys_are_the_lines_of_a_file() -> None:
    assert read_keys(["# keys", "", " a ", "b"]) == ("a", "b")
    assert read_keys([]) == ()


def test_the_page_needs_no_key_behind_a_prefix() -> None:
    scope = {"type": "http", "method": "GET", "headers": [], "root_path": "/sd"}
    gate = Gate(("secret",))
    assert gate.check(scope | {"path": "/sd/"}) == "unknown"
    with pytest.raises(Refused, match="API key"):
        gate.check(scope | {"path": "/sd/v1/jobs"})


def test_an_error_has_its_apis_form_behind_a_prefix() -> None:
    for root in ("", "/sd"):
        scope = {"type": "http", "root_path": root}
        problem = Problem(404, "there is none")
        web = problem_response(problem, path_of(scope | {"path": f"{root}/sdapi/v1/none"}))
        openai = problem_response(problem, path_of(scope | {"path": f"{root}/v1/models/none"}))
        assert json.loads(bytes(web.body))["detail"] == "there is none"
        assert json.loads(bytes(openai.body))["error"]["message"] == "there is none"


def test_requests_of_a_burst_begin_one_in_each_turn_of_the_event_loop() -> None:
    turns: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        turns.append(turn)

    async def received() -> Message:
        return {"type": "http.request", "body": b""}

    async def sent(message: Message) -> None:
        del message

    turn = 0

    async def burst() -> None:
        nonlocal turn
        gates = Gates(app, Gate(), Metrics())
        scopes = [
            {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}
            for _ in range(20)
        ]
        asked = asyncio.gather(*(gates(scope, received, sent) for scope in scopes))
        while not asked.done():
            turn += 1
            await asyncio.sleep(0)

    asyncio.run(burst())
    assert len(turns) == len(set(turns)) == 20
