"""Jobs: submit, follow, poll, cancel, list."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from latentrt.runtime.schedules import CATALOGUE
from latentrt.serving.bodies import JobBody
from latentrt.serving.job import Job
from latentrt.serving.order import MEDIA, order_of
from latentrt.serving.problem import Problem, Refused
from latentrt.serving.routes.needs import Client, ReadyService
from latentrt.serving.service import Service
from latentrt.serving.streams import Message, stream

router = APIRouter(prefix="/v1", tags=["jobs"])
API: Final = "jobs"
_ID: Final = r"^[A-Za-z0-9._-]{1,64}$"
JobId = Annotated[str, Path(pattern=_ID)]


class SubmitBody(JobBody):
    """A job; with an `id` of the client's, a retry is no second picture."""

    id: str | None = Field(default=None, pattern=_ID)


class JobAnswer(BaseModel):
    """What is known of a job."""

    id: str
    status: Literal["queued", "running", "done", "error", "cancelled"]
    queue_position: int | None
    progress: float
    model: str
    created: float
    images: list[str]
    seeds: list[int | None]
    notes: list[str]
    error: dict[str, Any] | None
    events_url: str
    poll_url: str


@router.post("/jobs", status_code=202)
async def submit(
    body: SubmitBody, request: Request, service: ReadyService, client: Client
) -> JobAnswer:
    """Submit an order of pictures; it is drawn whether or not anybody follows."""
    order = await asyncio.to_thread(order_of, body, service.shelf, service.limits)
    job = service.jobs.submit(order, client, API, body.id)
    return _answer(service, request, job)


@router.get("/jobs")
async def listed(request: Request, service: ReadyService, client: Client) -> list[JobAnswer]:
    """The client's jobs that are known, the newest first."""
    own = [job for job in service.jobs if job.client == client and job.api == API]
    return [_answer(service, request, job) for job in reversed(own)]


@router.get("/jobs/{id}")
async def poll(id: JobId, request: Request, service: ReadyService, client: Client) -> JobAnswer:
    """One job."""
    return _answer(service, request, _own(service, id, client))


@router.delete("/jobs/{id}")
async def cancel(id: JobId, request: Request, service: ReadyService, client: Client) -> JobAnswer:
    """Cancel a job: its rows are gone from the next U-Net call. Twice does nothing more."""
    job = _own(service, id, client)
    service.jobs.cancel(job)
    return _answer(service, request, job)


@router.get("/jobs/{id}/events", response_class=StreamingResponse)
async def events(
    id: JobId,
    service: ReadyService,
    client: Client,
    last_event_id: Annotated[str | None, Header()] = None,
    after: Annotated[int, Query(ge=0)] = 0,
) -> StreamingResponse:
    """What happens to a job, as server-sent events: queued, started, step, image, and its end."""
    job = _own(service, id, client)
    if last_event_id is not None and last_event_id.isdecimal():
        after = max(after, int(last_event_id[:9]))
    return stream(_messages(job, after))


@router.get("/jobs/{id}/images/{index}", response_class=Response)
async def image(
    id: JobId, index: Annotated[int, Path(ge=0)], service: ReadyService, client: Client
) -> Response:
    """One picture's file."""
    job = _own(service, id, client)
    if job.drawn is None or index >= len(job.drawn.files):
        raise Refused(Problem(404, f"index: job {id} has no picture {index}", "index"))
    job.fetched = True
    return Response(job.drawn.files[index], media_type=MEDIA[job.order.format])


@router.get("/jobs/{id}/preview", response_class=Response)
async def preview(id: JobId, service: ReadyService, client: Client) -> Response:
    """The newest preview, a JPEG."""
    job = _own(service, id, client)
    if job.preview is None:
        raise Refused(Problem(404, f"id: job {id} has no preview", "id"))
    return Response(job.preview, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.get("/samplers")
async def samplers() -> list[str]:
    """The names of samplers."""
    return sorted(CATALOGUE)


async def _messages(job: Job, after: int) -> AsyncIterator[Message]:
    async for event in job.events(after):
        data = dict(event.data)
        if event.preview is not None:
            text = base64.b64encode(event.preview).decode()
            data["preview"] = f"data:image/jpeg;base64,{text}"
        yield Message(event.kind, data, event.number)


def _own(service: Service, name: str, client: str) -> Job:
    """A client's job; that of another is unknown to it."""
    job = service.jobs.get(name)
    if job.client != client:
        raise Refused(Problem(404, f"there is no job {name}", "id", "unknown_job"))
    return job


def _answer(service: Service, request: Request, job: Job) -> JobAnswer:
    root = request.scope.get("root_path", "")
    url = f"{root}/v1/jobs/{job.id}"
    drawn, problem = job.drawn, job.problem
    error = None
    if problem is not None:
        error = {"status": problem.status, "message": problem.message, "field": problem.field}
    return JobAnswer(
        id=job.id,
        status=job.state,
        queue_position=service.jobs.position(job),
        progress=job.progress,
        model=job.order.model,
        created=job.created,
        images=[] if drawn is None else [f"{url}/images/{i}" for i in range(len(drawn.files))],
        seeds=[] if drawn is None else [each.seed for each in drawn.requests],
        notes=[] if drawn is None else list(drawn.notes),
        error=error,
        events_url=f"{url}/events",
        poll_url=url,
    )
