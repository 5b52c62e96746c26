"""OpenTelemetry traces: a span a request, and below it one a job, with its stages.

Without the package there are none. Its SDK says where spans go: `opentelemetry-instrument latentrt
serve ...`, or a tracer provider that a program sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentrt.serving.job import Job
from latentrt.serving.problem import CLIENT_GONE

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError:
    trace = None
    propagate = None

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

_NAME: Final = "latentrt"


class Traces:
    """The spans of a service; `provider` None: the process's own."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.tracer: Tracer | None = None
        if trace is not None:
            self.tracer = trace.get_tracer(_NAME, tracer_provider=provider)

    def ended(self, job: Job) -> None:
        """Tell of a job that is over, as a child of the request that submitted it."""
        if self.tracer is not None:
            job.context.run(_tell, self.tracer, job)


class Traced:
    """Each HTTP request as a span, as ASGI middleware; a client's `traceparent` is its parent."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or trace is None or propagate is None:
            await self._app(scope, receive, send)
            return
        status = CLIENT_GONE

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        parent = propagate.extract(Headers(scope=scope))
        method: str = scope["method"]
        with self._tracer.start_as_current_span(
            method, parent, trace.SpanKind.SERVER, {"http.request.method": method}
        ) as span:
            try:
                await self._app(scope, receive, seen)
            finally:
                _describe(span, scope, status)


def _describe(span: Span, scope: Scope, status: int) -> None:
    assert trace is not None
    route: str | None = getattr(scope.get("route"), "path", None)
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(trace.StatusCode.ERROR)


def _tell(tracer: Tracer, job: Job) -> None:
    assert trace is not None
    request = job.order.request
    fields: dict[str, Any] = {
        "latentrt.job.id": job.id,
        "latentrt.job.status": job.state,
        "latentrt.model": job.order.model,
        "latentrt.images": request.num_images,
        "latentrt.steps": request.sampling.steps,
    }
    span = tracer.start_span("job", attributes=fields, start_time=_nanoseconds(job.created))
    if job.state == "error":
        message = None if job.problem is None else job.problem.message
        span.set_status(trace.StatusCode.ERROR, message)
    inside = trace.set_span_in_context(span)
    for name, begin, end in _stages(job):
        stage = tracer.start_span(name, inside, start_time=_nanoseconds(begin))
        stage.end(_nanoseconds(end))
    span.end(_nanoseconds(job.ended))


def _stages(job: Job) -> Iterator[tuple[str, float, float]]:
    """The stages of a job, one after the other: name, begin and end in seconds of the clock."""
    if job.drawn is None:
        yield "queue", job.created, job.begun or job.ended
        return
    stages = job.drawn.stages
    # A job begins once its text is encoded.
    end = max(job.begun - stages["compile"] - stages["text"], job.created)
    yield "queue", job.created, end
    for name, seconds in stages.items():
        begin, end = end, end + seconds
        yield name, begin, end


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
