"""Spans of requests and jobs, as OpenTelemetry's SDK collects them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from tests.serving.live import Live, listening, service

from latentrt.serving import traces
from latentrt.serving.shelf import Shelf
from latentrt.serving.traces import Traces

EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))
BODY: dict[str, Any] = {"prompt": "a fox", "num_inference_steps": 40, "seed": 1}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def traced(bundle: Callable[[str], Path]) -> Iterator[Live]:
    with listening(service(Shelf((bundle("heads"),)), traces=Traces(PROVIDER))) as found:
        yield found


def spans(names: set[str]) -> dict[str, ReadableSpan]:
    """The spans by name, once all of these have ended."""
    until = time.monotonic() + 30
    while not names <= {span.name for span in EXPORTER.get_finished_spans()}:
        assert time.monotonic() < until, [span.name for span in EXPORTER.get_finished_spans()]
        time.sleep(0.01)
    return {span.name: span for span in EXPORTER.get_finished_spans()}


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_a_request_is_a_span_with_its_job_and_the_stages_below(traced: Live) -> None:
    EXPORTER.clear()
    url = f"{traced.url}/v1/images/generations"
    answer = httpx.post(url, json=BODY, headers={"traceparent": PARENT}, timeout=60)
    assert answer.status_code == 200
    found = spans({"POST /v1/images/generations", "vae"})
    request, job = found["POST /v1/images/generations"], found["job"]
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}-{request.parent.span_id:016x}" == PARENT[3:-3]
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/images/generations",
        "http.response.status_code": 200,
    }
    assert job.parent == request.get_span_context()
    assert (job.attributes or {})["latentrt.job.status"] == "done"
    stages = [found[name] for name in ("queue", "compile", "text", "unet", "vae")]
    assert all(stage.parent == job.get_span_context() for stage in stages)
    # Stages are measured by one clock and placed by another.
    assert sum(map(seconds, stages)) == pytest.approx(seconds(job), abs=0.25)
    # 40 calls of the smallest U-Net, which takes more than a tenth of a millisecond.
    assert 4e-3 < seconds(found["unet"]) < seconds(job) < seconds(request) + 0.25


def test_a_job_outlives_the_request_that_submitted_it(traced: Live) -> None:
    EXPORTER.clear()
    httpx.post(f"{traced.url}/v1/jobs", json={"prompt": "a fox"})
    found = spans({"POST /v1/jobs", "job"})
    request, job = found["POST /v1/jobs"], found["job"]
    assert job.parent == request.get_span_context()
    assert (job.end_time or 0) > (request.end_time or 0)


def test_a_failed_job_is_an_error(traced: Live) -> None:
    EXPORTER.clear()
    body = {"prompt": "a fox", "deadline": 0.001, "sampling": {"steps": 40}}
    httpx.post(f"{traced.url}/v1/jobs", json=body)
    job = spans({"POST /v1/jobs", "job"})["job"]
    assert job.status.status_code is StatusCode.ERROR
    assert "0.001 seconds" in (job.status.description or "")


def test_the_service_works_without_opentelemetry(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "trace", None)
    monkeypatch.setattr(traces, "propagate", None)
    with listening(service(Shelf((bundle("heads"),)), traces=Traces())) as plain:
        assert plain.service.traces.tracer is None
        answer = httpx.post(f"{plain.url}/v1/images/generations", json=BODY, timeout=60)
        assert answer.status_code == 200
