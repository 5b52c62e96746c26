"""AUTOMATIC1111's web UI: what there is to choose from.

Source: `modules/api/api.py` and `modules/api/models.py` of
github.com/AUTOMATIC1111/stable-diffusion-webui.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

from fastapi import APIRouter

from latentrt.runtime.schedules.catalogue import CATALOGUE, WEB_SCHEDULES
from latentrt.serving.problem import Problem, Refused
from latentrt.serving.routes.needs import ReadyService
from latentrt.serving.webui.checkpoints import checkpoints
from latentrt.serving.webui.controls import SCRIPT
from latentrt.serving.webui.task_body import UPSCALERS

router = APIRouter(prefix="/sdapi/v1", tags=["webui"])
_RHO: Final = {"karras": 7.0, "polyexponential": 1.0}
_SCRIPTS: Final = [SCRIPT]


@router.get("/sd-models")
async def sd_models(service: ReadyService) -> list[dict[str, Any]]:
    """The models, the default first. The hash is a bundle's; files have none."""
    found = await asyncio.to_thread(checkpoints, service.shelf)
    return [
        {
            "title": each.title,
            "model_name": each.name,
            "hash": each.sha256[:10] or None,
            "sha256": each.sha256 or None,
            "filename": each.path.name,
            "config": None,
        }
        for each in found
    ]


@router.get("/samplers")
async def samplers() -> list[dict[str, Any]]:
    """The samplers by the web UI's names."""
    return [
        {
            "name": entry.web,
            "aliases": [f"k_{each}" for each in (_alias(entry.web), *entry.also)],
            "options": {},
        }
        for entry in CATALOGUE.values()
        if entry.web
    ]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    """The schedules; "Automatic" is that of the sampler."""
    return [
        {
            "name": name,
            "label": labels[0],
            "aliases": list(labels[1:]) or None,
            "default_rho": _RHO.get(name, -1.0),
            "need_inner_model": False,
        }
        for name, labels in (("automatic", ("Automatic",)), *WEB_SCHEDULES.items())
    ]


@router.get("/upscalers")
async def upscalers() -> list[dict[str, Any]]:
    """The upscalers of pictures."""
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}
        for name, way in UPSCALERS.items()
        if way == "lanczos"
    ]


@router.get("/latent-upscale-modes")
async def latent_upscale_modes() -> list[dict[str, str]]:
    """The upscalers of latents."""
    return [{"name": name} for name, way in UPSCALERS.items() if way != "lanczos"]


@router.get("/loras")
async def loras(service: ReadyService) -> list[dict[str, Any]]:
    """The LoRAs, which a prompt names as `<lora:NAME:1>`."""
    names = await asyncio.to_thread(lambda: service.shelf.lora_names)
    return [
        {"name": name, "alias": name, "path": f"{name}.safetensors", "metadata": {}}
        for name in names
    ]


@router.get("/embeddings")
async def embeddings(service: ReadyService) -> dict[str, Any]:
    """The textual inversions, which a prompt names by their names."""
    names = await asyncio.to_thread(lambda: service.shelf.embedding_names)
    unknown = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
    return {"loaded": {n: {**unknown, "shape": 0, "vectors": 0} for n in names}, "skipped": {}}


@router.post("/refresh-checkpoints")
@router.post("/refresh-loras")
@router.post("/refresh-vae")
async def refresh() -> None:
    """Nothing: folders are read at each request, and models are those of the service's start."""


@router.get("/sd-vae")
@router.get("/hypernetworks")
@router.get("/face-restorers")
@router.get("/realesrgan-models")
@router.get("/prompt-styles")
@router.get("/extensions")
async def none() -> list[Any]:
    """There are none of these."""
    return []


@router.get("/scripts")
async def scripts() -> dict[str, list[str]]:
    """The scripts that `alwayson_scripts` may name."""
    return {"txt2img": _SCRIPTS, "img2img": _SCRIPTS}


@router.get("/script-info")
async def script_info() -> list[dict[str, Any]]:
    """The same scripts, whose arguments are ControlNet units."""
    return [
        {"name": name, "is_alwayson": True, "is_img2img": img2img, "args": []}
        for img2img in (False, True)
        for name in _SCRIPTS
    ]


@router.get("/cmd-flags")
async def cmd_flags() -> dict[str, Any]:
    """What the web UI's command line would say."""
    return {"api": True, "nowebui": True, "api_server_stop": False}


@router.get("/memory")
async def memory() -> dict[str, Any]:
    """Bytes that the service has taken at most."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"ram": {"used": used}, "cuda": {"error": "unavailable"}}


@router.post("/extra-single-image")
@router.post("/extra-batch-images")
@router.post("/interrogate")
async def missing() -> None:
    """What the web UI does to finished pictures is not done here."""
    raise Refused(Problem(404, "upscaling and describing finished pictures is not done here"))


def _alias(name: str) -> str:
    """A sampler's name in k-diffusion's letters: "DPM++ 2M SDE" is dpmpp_2m_sde."""
    return name.lower().replace("++", "pp").replace(" ", "_")
