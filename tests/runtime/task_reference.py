"""diffusers' pipelines for tasks, over tiny checkpoints, and how a picture compares with theirs."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from latentrt.bundle.golden import psnr
from latentrt.runtime import Result
from latentrt.runtime.schedules import CATALOGUE

PROMPT, SEED = "a large red circle on a blue background", 3
ETA = {"ddim": 0.4, "tcd": 0.3}
"""Given on both sides: diffusers' pipelines put 0 in place of a scheduler's own default."""
LATENTS = 1e-3
"""Relative error of latents after a run: rounding grows over its steps."""
LEAST_PSNR = 55.0
"""dB at fp32, both pictures rounded to 8 bits."""


def picture(width: int = 64, height: int = 64) -> Image.Image:
    """Smooth colours with an edge, so that resizing has something to do."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    rgb = np.stack([x, y, (x > y) * 0.8], axis=-1)
    return Image.fromarray(np.round(rgb * 255).astype(np.uint8))


def task_reference(folder: Path, task: str, sampler: str) -> Any:
    """diffusers' pipeline of a checkpoint for a task, such as "Inpaint", with a sampler.

    Components handed to a constructor, which forces what it forces on the scheduler.
    """
    index = json.loads((folder / "model_index.json").read_text())
    name = index["_class_name"]
    xl = "XL" in name
    base: Any = getattr(diffusers, name)
    loaded = base.from_pretrained(folder, **({} if xl else {"safety_checker": None}))
    entry = CATALOGUE[sampler]
    scheduler: Any = getattr(diffusers, entry.class_name)
    made_for = scheduler.from_pretrained(folder, subfolder="scheduler", **entry.decides)
    if task == "Depth2Img" and "clip_sample" in made_for.config:
        # Every other pipeline of Stable Diffusion forces this, and the model's own config says it.
        made_for.register_to_config(clip_sample=False)
    parts = {**loaded.components, "scheduler": made_for}
    kind: Any = getattr(
        diffusers, name.replace("Img2Img", "").replace("Pipeline", f"{task}Pipeline")
    )
    if task == "Depth2Img":
        parts = {**parts, "depth_estimator": None}
    known = inspect.signature(kind.__init__).parameters
    parts = {k: v for k, v in parts.items() if k in known}
    if task == "Depth2Img":
        made = kind(**parts)
    else:
        options = {"requires_safety_checker": False}
        if xl:
            keys = ("requires_aesthetics_score", "force_zeros_for_empty_prompt")
            options = {key: index[key] for key in keys if task and key in index}
        made = kind(**parts, **options)
    made.set_progress_bar_config(disable=True)
    return made


def decoded(reference: Any, latents: torch.Tensor) -> np.ndarray[Any, Any]:
    """The reference's latents as pixels [h, w, 3] of 8 bits."""
    with torch.no_grad():
        scaled = latents / reference.vae.config.scaling_factor
        pixels = reference.vae.decode(scaled, return_dict=False)[0]
    rgb = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).double().numpy() * 255.0
    return np.round(rgb)


def check_against(reference: Any, found: Result, latents: torch.Tensor) -> None:
    """Compare a result's latent and picture with the reference's latents."""
    own = latents[0].numpy()
    assert np.linalg.norm(found.latents[0] - own) <= LATENTS * np.linalg.norm(own)
    drawn = np.asarray(found.images[0], np.float64)
    assert psnr(drawn, decoded(reference, latents), peak=255.0) >= LEAST_PSNR
