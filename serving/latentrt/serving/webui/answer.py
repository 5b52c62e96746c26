"""The web UI's answer to a request: pictures in base64, the request's fields, and `info`."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latentrt.serving.bodies import JobBody
from latentrt.serving.job import Job
from latentrt.serving.webui.bodies import GenerationBody, Img2ImgBody
from latentrt.serving.webui.infotext import written_infotext

TIMESTAMP = "%Y%m%d%H%M%S"
"""The form of the web UI's `job_timestamp`."""


def answer(body: GenerationBody, asked: JobBody, job: Job) -> dict[str, Any]:
    """The answer of a job that is done, or that was interrupted: then its preview is the picture.

    `info` is a JSON string.
    """
    drawn = job.drawn
    texts = [_text(body, asked, job, 0)] if drawn is None else list(drawn.parameters)
    files: list[bytes] = []
    if body.send_images:
        files = list(drawn.files) if drawn is not None else _unfinished(job, texts[0])
    return {
        "images": [base64.b64encode(file).decode() for file in files],
        "parameters": _parameters(body),
        "info": json.dumps(_info(body, asked, job, texts)),
    }


def _parameters(body: GenerationBody) -> dict[str, Any]:
    """The request's fields, without its pictures."""
    without = {"alwayson_scripts"}
    if isinstance(body, Img2ImgBody) and not body.include_init_images:
        without |= {"init_images", "mask"}
    return body.model_dump(mode="json") | dict.fromkeys(without)


def _info(body: GenerationBody, asked: JobBody, job: Job, texts: list[str]) -> dict[str, Any]:
    assert asked.seed is not None
    request = job.order.request if job.drawn is None else job.drawn.requests[0]
    made = request.provenance
    varied = asked.subseed_strength > 0
    count = range(body.count)
    seeds = [asked.seed + (0 if varied else i) for i in count]
    subseeds = [(asked.subseed or 0) + i for i in count] if varied else seeds
    return {
        "prompt": body.prompt,
        "all_prompts": [body.prompt] * body.count,
        "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [body.negative_prompt] * body.count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": body.subseed_strength,
        "width": None if request.size is None else request.size.width,
        "height": None if request.size is None else request.size.height,
        "sampler_name": body.sampler,
        "cfg_scale": body.cfg_scale,
        "steps": body.steps,
        "batch_size": body.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.order.model,
        "sd_model_hash": "" if made is None else made.model_hash[:10],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": 0,
        "seed_resize_from_h": 0,
        "denoising_strength": getattr(request.task, "strength", None),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": time.strftime(TIMESTAMP, time.localtime(job.created)),
        "clip_skip": asked.clip_skip + 1,
        "is_using_inpainting_conditioning": False,
        "comments": [] if job.drawn is None else list(job.drawn.notes),
        "interrupted": job.drawn is None,
    }


def _text(body: GenerationBody, asked: JobBody, job: Job, image: int) -> str:
    """The parameters of a picture that was not finished."""
    request = job.order.request
    assert request.seed is not None
    fields = {
        "Steps": body.steps,
        "Sampler": body.sampler,
        "CFG scale": request.guidance.scale_text,
        "Seed": request.seed_of(image),
        "Size": request.size,
        "Model": job.order.model,
        "Clip skip": asked.clip_skip + 1 if asked.clip_skip else None,
    }
    return written_infotext(body.prompt, body.negative_prompt, fields)


def _unfinished(job: Job, text: str) -> list[bytes]:
    """The newest preview as a PNG in the size asked for; nothing where there is none."""
    if job.preview is None:
        return []
    with Image.open(io.BytesIO(job.preview)) as picture:
        picture.load()
        size = job.order.request.size
        if size is not None and picture.size != (size.width, size.height):
            picture = picture.resize((size.width, size.height), Image.Resampling.BICUBIC)
        info, buffer = PngInfo(), io.BytesIO()
        info.add_text("parameters", text)
        picture.save(buffer, "PNG", pnginfo=info)
    return [buffer.getvalue()]
