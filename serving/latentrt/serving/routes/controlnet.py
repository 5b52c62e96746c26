"""The routes of the web UI's ControlNet extension.

Source: `scripts/api.py` of github.com/Mikubill/sd-webui-controlnet.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter
from PIL import Image
from pydantic import Field

from latentrt.bundle.errors import InputError
from latentrt.runtime import canny
from latentrt.serving.routes.needs import ReadyService
from latentrt.serving.webui.bodies import WebBody
from latentrt.serving.webui.controls import MODULES, named_module, thresholds
from latentrt.serving.webui.resizing import encoded_picture, flat_picture

router = APIRouter(prefix="/controlnet", tags=["webui"])
_VERSION: Final = 2
"""Of the extension's API."""


class DetectBody(WebBody):
    """`POST /controlnet/detect`. One client names its pictures `controlnet_images`."""

    controlnet_module: str = "none"
    controlnet_input_images: list[str] = Field(default=[], max_length=16)
    controlnet_images: list[str] = Field(default=[], max_length=16)
    controlnet_threshold_a: float = -1
    controlnet_threshold_b: float = -1


@router.get("/version")
async def version() -> dict[str, int]:
    """The version of the extension's API."""
    return {"version": _VERSION}


@router.get("/model_list")
async def model_list(service: ReadyService) -> dict[str, list[str]]:
    """The ControlNets."""
    return {"model_list": await asyncio.to_thread(lambda: list(service.shelf.control_names))}


@router.get("/module_list")
async def module_list() -> dict[str, Any]:
    """The preprocessors."""
    return {"module_list": list(MODULES), "module_detail": {}}


@router.post("/detect")
async def detect(body: DetectBody) -> dict[str, Any]:
    """What a ControlNet is to read of pictures, such as their edges."""
    module = named_module(body.controlnet_module)
    given = body.controlnet_input_images or body.controlnet_images
    if not given:
        raise InputError("controlnet_input_images", "pictures in base64", "none")
    low, high = thresholds(body.controlnet_threshold_a, body.controlnet_threshold_b)

    def found(text: str) -> str:
        picture = flat_picture("controlnet_input_images", text)
        if module == "canny":
            picture = Image.fromarray(canny(picture, low, high))
        return encoded_picture(picture)

    return {"images": [await asyncio.to_thread(found, each) for each in given], "info": "Success"}
