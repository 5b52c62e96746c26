"""Depth to image and InstructPix2Pix against diffusers' own pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.outcome import Run
from tests.runtime.task_reference import PROMPT, SEED, check_against, picture, task_reference

from latentrt.bundle.errors import InputError
from latentrt.runtime import DepthToImage, InstructPix2Pix, Pipeline, Request, Sampling

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

Checkpoint = Callable[[str], Path]
Pipelines = Callable[[str], Pipeline]


def depth(height: int = 48, width: int = 40) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A ball before a slope."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ball = np.sqrt(np.maximum(0, 200 - (y - 20) ** 2 - (x - 22) ** 2))
    return (ball + y / 4 + 3).astype(np.float32)


@pytest.mark.parametrize(
    ("sampler", "strength"), [("euler", 0.5), ("ddim", 0.8), ("dpmpp_2m", 1.0), ("plms", 0.8)]
)
def test_a_picture_keeps_its_depth_as_in_diffusers(
    pipelines: Pipelines, checkpoint: Checkpoint, sampler: str, strength: float
) -> None:
    task = DepthToImage(picture(), depth(), strength)
    sampling = Sampling(sampler, steps=8, eta=0.0 if sampler == "ddim" else None)
    found = pipelines("lists5")(Request(PROMPT, seed=SEED, task=task, sampling=sampling))
    reference = task_reference(checkpoint("lists5"), "Depth2Img", sampler)
    latents = reference(
        prompt=PROMPT,
        image=picture(),
        depth_map=torch.from_numpy(depth())[None],
        strength=strength,
        num_inference_steps=8,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images
    # diffusers takes "latent" pictures through its image processor, which leaves them.
    check_against(reference, found, latents)


@pytest.mark.parametrize(
    ("configuration", "sampler", "guidance", "image_guidance"),
    [
        ("heads8", "euler", 7.5, 1.5),
        ("heads8", "euler_ancestral", 7.5, 1.0),
        ("heads8", "ddim", 4.0, 2.5),
        ("heads8", "dpmpp_2m", 1.0, 1.5),
        ("xl8", "euler", 7.5, 1.5),
    ],
)
def test_a_picture_follows_an_instruction_as_in_diffusers(
    pipelines: Pipelines,
    checkpoint: Checkpoint,
    configuration: str,
    sampler: str,
    guidance: float,
    image_guidance: float,
) -> None:
    task = InstructPix2Pix(picture(), image_guidance)
    sampling = Sampling(sampler, steps=8, eta=0.0 if sampler == "ddim" else None)
    request = Request(
        PROMPT, negative_prompt="a star", seed=SEED, task=task, sampling=sampling, guidance=guidance
    )
    found = pipelines(configuration)(request)
    reference = task_reference(checkpoint(configuration), "InstructPix2Pix", sampler)
    latents = reference(
        prompt=PROMPT,
        negative_prompt="a star",
        image=picture(),
        num_inference_steps=8,
        guidance_scale=guidance,
        image_guidance_scale=image_guidance,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images
    check_against(reference, found, latents)


def test_a_depth_map_keeps_the_levels_of_a_16_bit_picture() -> None:
    levels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    task = DepthToImage(picture(), Image.fromarray(levels))
    assert np.array_equal(task.depth, levels.astype(np.float32))


def test_a_flat_depth_map_draws_finite_pictures(pipelines: Pipelines) -> None:
    task = DepthToImage(picture(), np.ones((64, 64), np.float32))
    request = Request("a", seed=1, task=task, sampling=Sampling("euler", steps=2))
    assert np.isfinite(pipelines("lists5")(request).latents).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "depth: expected a Pillow image, or a float32 array"),
        (np.zeros((8, 8)), "depth: expected a Pillow image, or a float32 array"),
        (np.full((8, 8), np.nan, np.float32), "depth: expected finite values"),
        ("depth.png", "depth: expected a Pillow image"),
        (np.zeros((1, 20000), np.float32), "depth: expected at most 16384 pixels a side"),
    ],
)
def test_what_is_no_depth_map_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DepthToImage(picture(), value)


@pytest.mark.parametrize("scale", [0.99, float("nan"), "x", 1e9])
def test_an_image_guidance_outside_its_range_is_refused(scale: Any) -> None:
    with pytest.raises(InputError, match="image_guidance: expected a number from 1 to 10000"):
        InstructPix2Pix(picture(), scale)


def test_several_prompts_do_not_go_with_an_instruction(pipelines: Pipelines) -> None:
    request = Request("a", task=InstructPix2Pix(picture()), composed=[("b", 1.0)])
    with pytest.raises(InputError, match="composed: expected none with instruct_pix2pix"):
        pipelines("heads8").run(request)


def test_json_names_the_depth_map_and_wants_it_back() -> None:
    task = DepthToImage(picture(), depth(), 0.4)
    stored = json.loads(json.dumps(Request("a", task=task).to_json()))
    assert Request.from_json(stored, [task.image, task.depth]) == Request("a", task=task)
    with pytest.raises(InputError, match="depth: expected the depth that was begun with"):
        Request.from_json(stored, [task.image, np.zeros((4, 4), np.float32)])


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("lists5", ["--depth", "DEPTH", "--strength", 0.6]),
        ("heads8", ["--image-guidance", 1.5]),
    ],
)
def test_the_command_draws_the_task(
    run: Run,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    model: str,
    options: list[Any],
) -> None:
    image, near, out = (tmp_path / name for name in ("a.png", "d.png", "b.png"))
    picture().save(image)
    Image.fromarray(depth(64, 64).astype(np.uint8)).save(near)
    given = [near if each == "DEPTH" else each for each in options]
    common = ["-o", out, "--image", image, "--steps", 2, "--engine", "onnxruntime"]
    done = run("generate", bundle(model), "a", *common, *given)
    assert done.status == 0, done.err
    with Image.open(out) as drawn:
        assert drawn.size == (64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depth", "DEPTH"], "depth: expected none without --image"),
        (["--image", "IMAGE", "--depth", "/nowhere.png"], "/nowhere.png: no such file"),
        (["--image", "IMAGE", "--image-guidance", 1.5, "--strength", 0.5], "strength: expected no"),
        (["--image", "IMAGE", "--image-guidance", 0.5], "image_guidance: expected a number"),
    ],
)
def test_the_command_says_which_option_is_wrong(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path, options: list[Any], message: str
) -> None:
    image = tmp_path / "a.png"
    picture().save(image)
    given = [image if each in ("IMAGE", "DEPTH") else each for each in options]
    done = run("generate", bundle("heads"), "a", "-o", tmp_path / "b.png", *given)
    assert done.status == 2
    assert message in done.err
