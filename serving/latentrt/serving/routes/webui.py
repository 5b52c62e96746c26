"""AUTOMATIC1111's web UI: pictures, their progress, options.

Source: `modules/api/api.py` of github.com/AUTOMATIC1111/stable-diffusion-webui.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from latentrt.bundle.errors import Cancelled, InputError
from latentrt.serving.bodies import JobBody
from latentrt.serving.job import Job
from latentrt.serving.order import Order, order_of
from latentrt.serving.pictures import decoded_picture
from latentrt.serving.problem import Problem, Refused
from latentrt.serving.routes.needs import Client, ReadyService
from latentrt.serving.service import Service
from latentrt.serving.streams import drawn_for
from latentrt.serving.webui.answer import TIMESTAMP, answer
from latentrt.serving.webui.bodies import GenerationBody, Img2ImgBody, PngInfoBody, Txt2ImgBody
from latentrt.serving.webui.checkpoints import checkpoint, model_named
from latentrt.serving.webui.infotext import parsed_infotext, picture_texts
from latentrt.serving.webui.job_body import job_body
from latentrt.serving.webui.options import WebOptions

router = APIRouter(prefix="/sdapi/v1", tags=["webui"])
API: Final = "webui"


@router.post("/txt2img")
async def txt2img(
    body: Txt2ImgBody, request: Request, service: ReadyService, client: Client
) -> Response:
    """Draw pictures."""
    return await _drawn(body, request, service, client)


@router.post("/img2img")
async def img2img(
    body: Img2ImgBody, request: Request, service: ReadyService, client: Client
) -> Response:
    """Redraw a picture, or its masked part."""
    return await _drawn(body, request, service, client)


@router.get("/progress")
async def progress(
    service: ReadyService, client: Client, skip_current_image: bool = False
) -> dict[str, Any]:
    """How far the client's own request is: the oldest that is drawn, else the first that waits."""
    own = _own(service, client)
    job = next((each for each in own if each.state == "running"), own[0] if own else None)
    if job is None:
        return _progress(0.0, 0.0, None, None)
    done = min(0.01 + job.progress, 1.0)
    taken = time.time() - job.begun if job.begun else 0.0
    shown = None if skip_current_image or job.preview is None else job.preview
    return _progress(done, taken / done - taken, job, shown)


@router.post("/interrupt")
async def interrupt(service: ReadyService, client: Client) -> dict[str, Any]:
    """End the client's own requests, which are answered with what there is of their pictures."""
    for job in _own(service, client):
        service.jobs.cancel(job)
    return {}


@router.post("/skip")
async def skip(service: ReadyService, client: Client) -> None:
    """The same: all pictures of a request are drawn at once."""
    await interrupt(service, client)


@router.get("/options")
async def options(service: ReadyService, client: Client) -> dict[str, Any]:
    """The client's options."""
    found = service.web_options.of(client)
    name = model_named(service.shelf, found.sd_model_checkpoint)
    model = await asyncio.to_thread(checkpoint, service.shelf, name)
    return found.model_dump() | {
        "sd_model_checkpoint": model.title,
        "sd_checkpoint_hash": model.sha256,
    }


@router.post("/options")
async def set_options(body: dict[str, Any], service: ReadyService, client: Client) -> None:
    """Change the client's options, until the service ends. Unknown ones are ignored."""
    changed = service.web_options.of(client).changed(body)
    name = await asyncio.to_thread(model_named, service.shelf, changed.sd_model_checkpoint)
    chosen = {"sd_model_checkpoint": service.shelf.model_name(name)}
    service.web_options.put(client, changed.changed(chosen))


@router.post("/png-info")
async def png_info(body: PngInfoBody) -> dict[str, Any]:
    """The parameters in a picture's file."""

    def read() -> tuple[str, dict[str, str]]:
        return picture_texts(decoded_picture("image", body.image))

    text, items = await asyncio.to_thread(read)
    return {"info": text, "items": items, "parameters": parsed_infotext(text) if text else {}}


async def _drawn(body: GenerationBody, request: Request, service: Service, client: str) -> Response:
    chosen = service.web_options.of(client)
    asked, order = await asyncio.to_thread(_ordered, body, chosen, service)
    job = service.jobs.submit(order, client, API, _name(body, service, client))
    try:
        await drawn_for(request, service.jobs, job, kept=body.force_task_id != "")
    except Cancelled as error:
        if error is not job.error or service.jobs.closing:  # the client, or the service, has gone
            raise
    return JSONResponse(await asyncio.to_thread(answer, body, asked, job))


def _ordered(body: GenerationBody, chosen: WebOptions, service: Service) -> tuple[JobBody, Order]:
    most = service.limits.images
    if body.count > most:
        raise InputError("batch_size * n_iter", f"at most {most}", body.count)
    asked = job_body(body, chosen, service.shelf)
    return asked, order_of(asked, service.shelf, service.limits)


def _name(body: GenerationBody, service: Service, client: str) -> str | None:
    """The job's id, where the client gives one: in letters that ids have."""
    if not body.force_task_id:
        return None
    name = re.sub(r"[^A-Za-z0-9._-]", "-", body.force_task_id)
    if any(job.id == name and (job.client, job.api) != (client, API) for job in service.jobs):
        raise Refused(Problem(409, f"force_task_id: {name} is another job", "force_task_id"))
    return name


def _own(service: Service, client: str) -> list[Job]:
    """A client's own requests to this API that are not over, the oldest first."""
    return [job for job in service.jobs if job.client == client and job.api == API and not job.over]


def _progress(done: float, left: float, job: Job | None, shown: bytes | None) -> dict[str, Any]:
    newest = None if job is None else job.newest
    begun = time.localtime(job.created if job else 0)
    return {
        "progress": done,
        "eta_relative": left,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": job.id if job else "",
            "job_count": 0 if job is None else 1,
            "job_timestamp": time.strftime(TIMESTAMP, begun) if job else "0",
            "job_no": 0,
            "sampling_step": 0 if newest is None else newest.index + 1,
            "sampling_steps": 0 if newest is None else newest.total,
        },
        "current_image": None if shown is None else base64.b64encode(shown).decode(),
        "textinfo": None if job is None or job.state != "queued" else "queued",
    }
