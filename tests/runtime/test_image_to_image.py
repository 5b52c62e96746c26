"""Image to image against diffusers' own pipelines, and what a request keeps of a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from latentrt.bundle.golden import psnr
from latentrt.runtime import ImageToImage, Pipeline, Request, Sampling
from latentrt.runtime.schedules import CATALOGUE

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

PROMPT, SEED = "a large red circle on a blue background", 3
SAMPLERS = ("ddim", "euler", "euler_ancestral", "dpmpp_2m", "plms")
STRENGTHS = (0.3, 0.55, 0.8, 1.0)
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


@pytest.fixture(scope="module")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str, str], Any]:
    """diffusers' image-to-image pipeline of a tiny checkpoint, with a sampler."""
    loaded: dict[str, Any] = {}

    def get(configuration: str, sampler: str) -> Any:
        folder = checkpoint(configuration)
        if configuration not in loaded:
            name = json.loads((folder / "model_index.json").read_text())["_class_name"]
            kind: Any = getattr(diffusers, name.replace("Pipeline", "Img2ImgPipeline"))
            options = {} if "XL" in name else {"safety_checker": None}
            loaded[configuration] = kind.from_pretrained(folder, **options)
        entry = CATALOGUE[sampler]
        scheduler: Any = getattr(diffusers, entry.class_name)
        parts = {
            **loaded[configuration].components,
            "scheduler": scheduler.from_pretrained(folder, subfolder="scheduler", **entry.decides),
        }
        kind = type(loaded[configuration])
        options = {} if "XL" in kind.__name__ else {"requires_safety_checker": False}
        # Components handed to a constructor, which forces what it forces on the scheduler.
        made = kind(**parts, **options)
        made.set_progress_bar_config(disable=True)
        return made

    return get


@pytest.fixture(scope="module")
def pipelines(bundle: Callable[[str], Path]) -> Iterator[Callable[[str], Pipeline]]:
    opened: dict[str, Pipeline] = {}

    def get(configuration: str) -> Pipeline:
        if configuration not in opened:
            opened[configuration] = Pipeline.open(bundle(configuration), engine="onnxruntime")
        return opened[configuration]

    yield get
    for pipeline in opened.values():
        pipeline.close()


def check(
    pipeline: Pipeline, reference: Any, sampler: str, strength: float, steps: int = 6
) -> None:
    """Draw by both, and compare latents and pictures."""
    image = picture()
    sampling = Sampling(sampler, steps=steps, eta=ETA.get(sampler))
    task = ImageToImage(image, strength)
    request = Request(PROMPT, seed=SEED, task=task, sampling=sampling)
    found = pipeline(request)
    eta = {"eta": ETA[sampler]} if sampler in ETA else {}
    latents = reference(
        prompt=PROMPT,
        image=image,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=request.guidance.scale,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **eta,
    ).images
    with torch.no_grad():
        scaled = latents / reference.vae.config.scaling_factor
        pixels = reference.vae.decode(scaled, return_dict=False)[0]
    expected = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).double().numpy() * 255.0
    own = latents[0].numpy()
    assert np.linalg.norm(found.latents[0] - own) <= LATENTS * np.linalg.norm(own)
    drawn = np.asarray(found.images[0], np.float64)
    assert psnr(drawn, np.round(expected), peak=255.0) >= LEAST_PSNR


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_becomes_what_diffusers_makes_of_it(
    pipelines: Callable[[str], Pipeline],
    reference: Callable[[str, str], Any],
    sampler: str,
    strength: float,
) -> None:
    check(pipelines("heads"), reference("heads", sampler), sampler, strength)


@pytest.mark.parametrize(
    ("configuration", "sampler", "strength"),
    [
        ("lists", "euler", 0.5),
        ("xl", "euler", 0.6),
        ("xl", "dpmpp_2m_sde", 0.6),
        ("lcm", "lcm", 0.5),
        # In the middle of what several evaluations or orders belong to.
        ("heads", "heun", 0.5),
        ("heads", "dpm2_ancestral", 0.5),
        ("heads", "dpmpp_2s", 0.67),
        ("heads", "dpmpp_3s", 0.84),
        ("heads", "dpmpp_3s", 0.67),
        ("heads", "dpmpp_3m", 0.67),
        ("heads", "unipc", 0.67),
        ("heads", "deis", 0.67),
        ("heads", "ddpm", 0.5),
        ("heads", "lcm", 0.5),
        ("heads", "tcd", 0.5),
        ("heads", "plms", 0.17),
    ],
)
def test_every_family_and_kind_of_sampler_begins_in_the_middle_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    reference: Callable[[str, str], Any],
    configuration: str,
    sampler: str,
    strength: float,
) -> None:
    steps = 4 if configuration == "lcm" else 6
    theirs = reference(configuration, sampler)
    check(pipelines(configuration), theirs, sampler, strength, steps)
