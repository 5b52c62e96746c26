"""OpenAI's Images API: generations, edits, models.

Source: the OpenAPI document of github.com/openai/openai-openapi, and the client `openai`.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from latentrt.bundle.errors import InputError
from latentrt.runtime import ImageToImage, Inpainting
from latentrt.serving.bodies import GuidanceBody, JobBody, SamplingBody
from latentrt.serving.job import Job
from latentrt.serving.order import MEDIA, Order, order_of
from latentrt.serving.pictures import picture_of
from latentrt.serving.problem import Problem, Refused, problem_of
from latentrt.serving.routes.needs import Client, ReadyService
from latentrt.serving.service import Service
from latentrt.serving.streams import Message, drawn_for, stream

router = APIRouter(prefix="/v1", tags=["openai"])
API: Final = "openai"
_IGNORED: Final = Field(default=None, description="Accepted, and without effect here.")


class ImageBody(BaseModel):
    """What both routes take: OpenAI's fields, and plain ones that other servers' clients send."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(max_length=1 << 20)
    model: str | None = None
    n: int | None = Field(default=None, ge=1, le=10)
    size: str | None = Field(default=None, description="WIDTHxHEIGHT, or auto.")
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=3)
    quality: str | None = _IGNORED
    background: str | None = _IGNORED
    moderation: str | None = _IGNORED
    style: str | None = _IGNORED
    user: str | None = _IGNORED
    input_fidelity: str | None = _IGNORED
    seed: int | None = Field(default=None, ge=-1, lt=1 << 64)
    negative_prompt: str | None = None
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0, le=10_000)
    strength: float | None = Field(default=None, gt=0, le=1)

    def job(self) -> JobBody:
        """The same as a job, without its picture."""
        seed = None if self.seed in (None, -1) else self.seed
        steps: dict[str, Any] = (
            {} if self.num_inference_steps is None else {"steps": self.num_inference_steps}
        )
        scale: dict[str, Any] = (
            {} if self.guidance_scale is None else {"scale": self.guidance_scale}
        )
        return JobBody(
            prompt=self.prompt,
            model=self.model or None,
            negative_prompt=self.negative_prompt,
            size=None if self.size in (None, "auto") else self.size,
            num_images=self.n or 1,
            seed=seed,
            sampling=SamplingBody(**steps),
            guidance=GuidanceBody(**scale),
            format=self.output_format or "png",
            quality=max(self.output_compression or 80, 1),
        )


@router.get("/models")
async def models(service: ReadyService) -> dict[str, Any]:
    """The models by name, the default first."""
    return {"object": "list", "data": [_model(name) for name in service.shelf.model_names]}


@router.get("/models/{name}")
async def model(name: str, service: ReadyService) -> dict[str, Any]:
    """One model."""
    return _model(service.shelf.model_name(name))


@router.post("/images/generations", response_class=Response)
async def generations(
    body: ImageBody, request: Request, service: ReadyService, client: Client
) -> Response:
    """Draw pictures."""
    partial = body.partial_images or 0
    order = await asyncio.to_thread(order_of, body.job(), service.shelf, service.limits, partial)
    return await _answer("image_generation", body, order, request, service, client)


@router.get("/images/files/{name}/{file}", response_class=Response)
async def file(name: str, file: str, service: ReadyService, client: Client) -> Response:
    """A picture that an answer named by its URL."""
    job = service.jobs.get(name)
    number = file.partition(".")[0]
    known = job.client == client and job.drawn is not None and number.isdecimal()
    if not known or job.drawn is None or int(number[:4]) >= len(job.drawn.files):
        raise Refused(Problem(404, f"there is no picture {name[:64]}/{file[:64]}"))
    return Response(job.drawn.files[int(number[:4])], media_type=MEDIA[job.order.format])


@router.post(
    "/images/edits",
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image", "prompt"],
                        "properties": {
                            "image": {"type": "string", "format": "binary"},
                            "mask": {"type": "string", "format": "binary"},
                            "prompt": {"type": "string"},
                        },
                    }
                }
            },
        }
    },
)
async def edits(request: Request, service: ReadyService, client: Client) -> Response:
    """Redraw a picture: where the mask is transparent, or all of it."""
    async with request.form(max_files=17, max_fields=64, max_part_size=2 << 20) as form:
        files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        contents = {name: await value.read() for name, value in files.items()}
    body = _form(fields)
    order = await asyncio.to_thread(_edit, body, contents, service)
    return await _answer("image_edit", body, order, request, service, client)


def _form(fields: dict[str, str]) -> ImageBody:
    """A form's fields; raises what FastAPI raises for a JSON body."""
    try:
        return ImageBody.model_validate({name: text for name, text in fields.items() if text != ""})
    except ValidationError as error:
        errors = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(errors) from error


def _edit(body: ImageBody, contents: dict[str, bytes], service: Service) -> Order:
    """The order of an edit: inpainting where a mask or the picture is transparent."""
    unknown = [name for name in contents if name not in ("image", "image[]", "mask")]
    if unknown:
        raise InputError(unknown[0][:40], "none: the files are `image` and `mask`", "a file")
    content = contents.get("image", contents.get("image[]"))
    if content is None:
        raise InputError("image", "a file", "none")
    picture = picture_of("image", content)
    holes = picture
    if "mask" in contents:
        holes = picture_of("mask", contents["mask"])
        if holes.size != picture.size:
            sizes = ["x".join(map(str, each.size)) for each in (picture, holes)]
            raise InputError("mask", f"{sizes[0]}, the size of the image", sizes[1])
    redrawn = _transparent(holes)
    if "mask" in contents and not redrawn.any():
        raise InputError("mask", "transparent pixels, where the picture is redrawn", "none")
    order = order_of(body.job(), service.shelf, service.limits, body.partial_images or 0)
    strength: dict[str, Any] = {} if body.strength is None else {"strength": body.strength}
    masked = redrawn.any()
    task = Inpainting(picture, redrawn, **strength) if masked else ImageToImage(picture, **strength)
    return replace(order, request=order.request.with_values(task=task))


def _transparent(picture: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """White where a picture is transparent, uint8 [h, w]."""
    if not picture.has_transparency_data:
        return np.zeros((picture.height, picture.width), np.uint8)
    return 255 - np.asarray(picture.convert("RGBA"))[:, :, 3]


async def _answer(
    kind: str, body: ImageBody, order: Order, request: Request, service: Service, client: str
) -> Response:
    job = service.jobs.submit(order, client, API)
    if body.stream:
        return stream(_messages(kind, body, job, service))
    by_url = body.response_format == "url"
    drawn = await drawn_for(request, service.jobs, job, kept=by_url)
    data: list[dict[str, Any]] = [
        {"b64_json": base64.b64encode(file).decode()} for file in drawn.files
    ]
    if by_url:
        url = f"{str(request.base_url).rstrip('/')}/v1/images/files/{job.id}"
        data = [{"url": f"{url}/{i}.{body.output_format or 'png'}"} for i in range(len(data))]
    return JSONResponse({"created": int(job.created), "data": data, "usage": _usage()})


async def _messages(
    kind: str, body: ImageBody, job: Job, service: Service
) -> AsyncIterator[Message]:
    """Partial pictures, then the finished ones."""
    common = {
        "size": str(job.order.request.size or body.size or "auto"),
        "quality": body.quality or "auto",
        "background": "opaque",
    }
    count = 0
    try:
        async for event in job.events():
            if event.data.get("partial") and event.preview is not None:
                yield _message(f"{kind}.partial_image", event.preview, "jpeg", common, count)
                count += 1
        if job.drawn is None:
            yield Message("error", _error(job))
            return
        for file in job.drawn.files:
            yield _message(f"{kind}.completed", file, body.output_format or "png", common)
    finally:
        job.fetched = True
        service.jobs.cancel(job)
        service.jobs.forget(job)


def _message(
    kind: str, file: bytes, form: str, common: dict[str, str], index: int | None = None
) -> Message:
    last = {"usage": _usage()} if index is None else {"partial_image_index": index}
    data: dict[str, Any] = {
        "type": kind,
        "b64_json": base64.b64encode(file).decode(),
        "created_at": int(time.time()),
        "output_format": form,
        **common,
        **last,
    }
    return Message(kind, data)


def _error(job: Job) -> dict[str, Any]:
    problem = job.problem or problem_of(RuntimeError("it ended without a picture"))
    return {
        "type": "error",
        "error": {
            "message": problem.message,
            "type": problem.kind,
            "param": problem.field,
            "code": problem.code,
        },
    }


def _usage() -> dict[str, Any]:
    """Tokens as OpenAI bills them, which are none here; its client requires the field."""
    details = {"image_tokens": 0, "text_tokens": 0}
    return {
        "input_tokens": 0,
        "input_tokens_details": details,
        "output_tokens": 0,
        "total_tokens": 0,
    }


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "latentrt"}
