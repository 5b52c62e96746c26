"""ControlNets against diffusers' own pipelines, on the same checkpoints, noise and scheduler."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tests.controlnets import hint_picture, saved_controlnet

from latentrt.bundle.golden import Difference, psnr
from latentrt.runtime import Control, Pipeline, Request, Sampling

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

PROMPT, NEGATIVE, SEED, STEPS = "a large red circle on a blue background", "a star", 3, 8
GUIDANCE = 5.0
LATENTS = 1e-3
"""Relative error of latents after a run: rounding grows over its steps."""
LEAST_PSNR = 55.0
"""dB at fp32, both pictures rounded to 8 bits."""
VISIBLE = 0.02
"""A ControlNet of a test moves the latents by at least this share."""

Controlnets = Callable[..., Path]


@pytest.fixture(scope="module")
def controlnet(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Controlnets:
    """A tiny ControlNet's folder, by configuration and seed."""
    made: dict[tuple[str, int], Path] = {}

    def get(configuration: str, seed: int = 0) -> Path:
        key = (configuration, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("controlnet") / f"{configuration}-{seed}"
            made[key] = saved_controlnet(checkpoint(configuration), folder, seed)
        return made[key]

    return get


def reference(
    checkpoint: Path, models: Sequence[Path], sampler: str = "EulerDiscreteScheduler"
) -> Any:
    """diffusers' ControlNet pipeline of a checkpoint."""
    name = json.loads((checkpoint / "model_index.json").read_text())["_class_name"]
    xl = "XL" in name
    controlnets = [diffusers.ControlNetModel.from_pretrained(path) for path in models]
    kind: Any = getattr(diffusers, name.replace("Pipeline", "ControlNetPipeline"))
    scheduler: Any = getattr(diffusers, sampler)
    made = kind.from_pretrained(
        checkpoint,
        controlnet=controlnets if len(controlnets) > 1 else controlnets[0],
        scheduler=scheduler.from_pretrained(checkpoint, subfolder="scheduler"),
        **({} if xl else {"safety_checker": None}),
    )
    made.set_progress_bar_config(disable=True)
    return made


def theirs(made: Any, controls: Sequence[Control], **options: Any) -> tuple[Any, Any]:
    """The last latents, and the picture as 8-bit numbers."""
    several = len(controls) > 1

    def each(values: list[Any]) -> Any:
        return values if several else values[0]

    arguments: dict[str, Any] = {
        "negative_prompt": NEGATIVE,
        "guidance_scale": GUIDANCE,
        "num_inference_steps": STEPS,
        "width": 64,
        "height": 64,
    }
    latents = made(
        prompt=PROMPT,
        image=each([Image.fromarray(np.array(c.image)) for c in controls]),
        controlnet_conditioning_scale=each([c.scale for c in controls]),
        control_guidance_start=each([c.start for c in controls]),
        control_guidance_end=each([c.end for c in controls]),
        guess_mode=any(c.mode == "control" for c in controls),
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **{**arguments, **options},
    ).images
    with torch.no_grad():
        pixels = made.vae.decode(latents / made.vae.config.scaling_factor, return_dict=False)[0]
    rgb = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).double().numpy() * 255.0
    return latents[0].numpy(), np.round(rgb)


def ours(controls: Sequence[Control], **fields: Any) -> Request:
    values: dict[str, Any] = {
        "negative_prompt": NEGATIVE,
        "seed": SEED,
        "sampling": Sampling("euler", steps=STEPS),
        "guidance": GUIDANCE,
        "controls": controls,
    }
    return Request(PROMPT, **{**values, **fields})


def check(
    pipeline: Pipeline, made: Any, controls: Sequence[Control], request: Request, **options: Any
) -> None:
    """Draw by both, compare latents and pictures; the ControlNets must have changed something."""
    found = pipeline(request)
    latents, pixels = theirs(made, controls, **options)
    assert Difference.between(found.latents[0], latents).relative <= LATENTS
    assert psnr(np.asarray(found.images[0], np.float64), pixels, peak=255.0) >= LEAST_PSNR
    plain = pipeline(request.with_values(controls=()))
    assert Difference.between(plain.latents[0], latents).relative >= VISIBLE


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl"])
def test_one_controlnet_gives_the_picture_of_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
    configuration: str,
) -> None:
    control = Control(controlnet(configuration), hint_picture(), 0.8)
    made = reference(checkpoint(configuration), [control.model])
    check(pipelines(configuration), made, [control], ours([control]))
