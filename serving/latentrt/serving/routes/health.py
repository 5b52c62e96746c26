"""Probes and metrics."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from latentrt.serving.routes.needs import AnyService

router = APIRouter(tags=["health"])


@router.get("/health/live")
def live(service: AnyService) -> Response:
    """Whether the batcher moves while rows wait, and nothing failed at the start."""
    idle = service.pulse.idle_seconds()
    healthy = idle < service.limits.stalled and not service.failure
    return _answer(healthy, {"seconds_without_step": round(idle, 1), "failure": service.failure})


@router.get("/health/ready")
def ready(service: AnyService) -> Response:
    """Whether a request would be taken in now."""
    full = service.jobs.queued >= service.limits.queued
    fields = {"phase": service.phase, "queued": service.jobs.queued}
    return _answer(service.phase == "ready" and not full, fields)


@router.get("/health/startup")
def startup(service: AnyService) -> Response:
    """Whether the engines are there and a picture was drawn."""
    return _answer(service.phase != "starting", {"phase": service.phase})


@router.get("/metrics")
def metrics(service: AnyService) -> Response:
    """Prometheus' text format."""
    page = service.metrics.page(service.jobs.running, service.jobs.queued)
    return Response(page, media_type=CONTENT_TYPE_LATEST)


def _answer(good: bool, fields: Mapping[str, object]) -> JSONResponse:
    headers = {} if good else {"retry-after": "5"}
    status = "ok" if good else "unavailable"
    return JSONResponse({"status": status, **fields}, 200 if good else 503, headers)
