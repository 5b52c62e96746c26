"""Inpainting against diffusers' own pipelines, and what is kept of a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from tests.cli.outcome import Run
from tests.runtime.task_reference import (
    ETA,
    PROMPT,
    SEED,
    check_against,
    picture,
    task_reference,
)

from latentrt.bundle.errors import InputError
from latentrt.runtime import DepthToImage, Inpainting, Pipeline, Request, Sampling, Size
from latentrt.runtime.masks import Region

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

Checkpoint = Callable[[str], Path]
Pipelines = Callable[[str], Pipeline]


def mask(width: int = 64, height: int = 64, level: int = 255) -> Image.Image:
    """White in a rectangle off the middle, and off the VAE's grid."""
    drawn = Image.new("L", (width, height))
    box = (width // 4 + 3, height // 8 + 2, width * 3 // 4, height * 3 // 4 + 1)
    ImageDraw.Draw(drawn).rectangle(box, fill=level)
    return drawn


def check(
    pipeline: Pipeline, reference: Any, sampler: str, strength: float, steps: int = 8
) -> None:
    task = Inpainting(picture(), mask(), strength, overlay=False)
    sampling = Sampling(sampler, steps=steps, eta=ETA.get(sampler))
    found = pipeline(Request(PROMPT, seed=SEED, task=task, sampling=sampling))
    eta = {"eta": ETA[sampler]} if sampler in ETA else {}
    latents = reference(
        prompt=PROMPT,
        image=picture(),
        mask_image=mask(),
        strength=strength,
        num_inference_steps=steps,
        height=64,
        width=64,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **eta,
    ).images
    check_against(reference, found, latents)


@pytest.mark.parametrize(
    ("configuration", "sampler", "strength"),
    [
        ("heads", "euler", 1.0),
        ("heads", "ddim", 0.75),
        ("heads", "dpmpp_2m", 0.75),
        ("heads", "euler_ancestral", 1.0),
        ("heads", "heun", 0.75),
        ("heads", "unipc", 1.0),
        ("heads", "plms", 1.0),
        ("heads9", "euler", 1.0),
        ("heads9", "ddim", 0.75),
        ("heads9", "euler_ancestral", 0.75),
        ("lists", "euler", 0.75),
        ("lists9", "dpmpp_2m", 1.0),
        ("xl", "euler", 0.75),
        ("xl9", "euler", 1.0),
        ("xl9", "dpmpp_2m_sde", 0.75),
    ],
)
def test_a_masked_part_is_drawn_as_diffusers_draws_it(
    pipelines: Pipelines,
    checkpoint: Checkpoint,
    configuration: str,
    sampler: str,
    strength: float,
) -> None:
    reference = task_reference(checkpoint(configuration), "Inpaint", sampler)
    check(pipelines(configuration), reference, sampler, strength)


@pytest.mark.parametrize("configuration", ["heads", "heads9"])
def test_only_the_masked_part_is_drawn_as_diffusers_draws_it(
    pipelines: Pipelines, checkpoint: Checkpoint, configuration: str
) -> None:
    image, part = picture(160, 120), mask(160, 120)
    reference = task_reference(checkpoint(configuration), "Inpaint", "ddim")
    expected = reference(
        prompt=PROMPT,
        image=image,
        mask_image=part,
        strength=0.75,
        num_inference_steps=8,
        height=64,
        width=64,
        padding_mask_crop=10,
        generator=torch.Generator().manual_seed(SEED),
    ).images[0]
    task = Inpainting(image, part, 0.75, only_masked=10)
    request = Request(
        PROMPT, seed=SEED, size=Size(64, 64), task=task, sampling=Sampling("ddim", steps=8)
    )
    found = pipelines(configuration)(request).images[0]
    assert found.size == (160, 120)
    own, theirs = (np.asarray(each, np.int16) for each in (found, expected))
    kept = np.asarray(part) == 0
    assert np.array_equal(own[kept], np.asarray(image)[kept])
    # Pillow composes with rounded alphas: one level.
    assert np.abs(own - theirs)[~kept].mean() < 1.0
    assert np.abs(own - theirs).max() <= 3


@pytest.mark.parametrize("configuration", ["heads", "heads9"])
def test_pixels_outside_the_mask_are_those_of_the_picture(
    pipelines: Pipelines, configuration: str
) -> None:
    kept = np.asarray(mask()) == 0
    for blur in (0, 2):
        task = Inpainting(picture(), mask(), mask_blur=blur)
        request = Request("a", seed=1, task=task, sampling=Sampling("euler", steps=2))
        found = np.asarray(pipelines(configuration)(request).images[0])
        outside = np.asarray(VaeImageProcessor.blur(mask(), blur)) == 0
        assert outside.sum() > 1000
        assert np.array_equal(found[outside], np.asarray(picture())[outside])
        assert not np.array_equal(found[~kept], np.asarray(picture())[~kept])


def test_an_inverted_mask_draws_what_the_other_keeps(pipelines: Pipelines) -> None:
    dark = Image.fromarray(255 - np.asarray(mask()))
    drawn = [
        pipelines("heads")(
            Request("a", seed=1, task=task, sampling=Sampling("euler", steps=2))
        ).images[0]
        for task in (
            Inpainting(picture(), mask()),
            Inpainting(picture(), dark, mask_invert=True),
        )
    ]
    assert drawn[0].tobytes() == drawn[1].tobytes()


def test_grey_counts_as_white_from_half_on_unless_the_mask_is_soft(pipelines: Pipelines) -> None:
    def drawn(level: int, *, soft: bool) -> np.ndarray[Any, Any]:
        task = Inpainting(picture(), mask(level=level), 0.75, mask_soft=soft, overlay=False)
        request = Request("a", seed=1, task=task, sampling=Sampling("euler", steps=4))
        return pipelines("heads")(request).latents

    hard = [drawn(level, soft=False) for level in (128, 200, 255)]
    assert np.array_equal(hard[0], hard[2])
    assert np.array_equal(hard[1], hard[2])
    soft = [drawn(level, soft=True) for level in (128, 255)]
    assert not np.allclose(soft[0], soft[1], atol=1e-3)


def test_fills_begin_with_other_latents(pipelines: Pipelines) -> None:
    drawn = {}
    for fill in ("original", "blur", "noise", "nothing"):
        task = Inpainting(picture(), mask(), 0.5, mask_fill=fill)  # type: ignore[arg-type]
        request = Request("a", seed=1, task=task, sampling=Sampling("euler", steps=4))
        drawn[fill] = pipelines("heads")(request).images[0].tobytes()
    assert len(set(drawn.values())) == 4


@given(
    st.integers(1, 90),
    st.integers(1, 70),
    st.integers(0, 40),
    st.sampled_from([(64, 64), (96, 64), (64, 128)]),
    st.data(),
)
def test_the_region_of_a_mask_is_diffusers(
    width: int, height: int, padding: int, size: tuple[int, int], data: st.DataObject
) -> None:
    drawn = np.zeros((height, width), np.uint8)
    rows = sorted((data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, height - 1))))
    columns = sorted((data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, width - 1))))
    drawn[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 255
    found = Region.around(drawn, padding, Size(*size))
    expected = VaeImageProcessor.get_crop_region(Image.fromarray(drawn), *size, pad=padding)
    assert (found.left, found.top, found.right, found.bottom) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask": mask(32, 64)}, "mask: expected 64x64, the size of the image, got 32x64"),
        ({"mask": Image.new("L", (64, 64))}, "mask: expected white where the picture is redrawn"),
        (
            {"mask": Image.new("L", (64, 64), 255), "mask_invert": True},
            "mask: expected black where the picture is redrawn",
        ),
        ({"mask": "mask.png"}, "mask: expected a Pillow image, or a uint8 array"),
        ({"mask_blur": -1}, "mask_blur: expected a radius from 0 to 1000"),
        ({"mask_fill": "latent"}, "mask_fill: expected one of original, blur, noise, nothing"),
        ({"only_masked": -1}, "only_masked: expected a number of pixels"),
        ({"strength": 1.5}, "strength: expected a number above 0 and at most 1"),
        ({"counting": "x"}, "counting: expected one of diffusers, webui, exact"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Inpainting(**{"image": picture(), "mask": mask(), **values})


def test_json_names_picture_and_mask_and_wants_them_back() -> None:
    task = Inpainting(picture(), mask(), 0.4, mask_blur=3, mask_fill="noise", only_masked=8)
    stored = json.loads(json.dumps(Request("a", task=task).to_json()))
    assert Request.from_json(stored, [task.image, task.mask]) == Request("a", task=task)
    with pytest.raises(InputError, match="mask: expected the mask that was begun with"):
        Request.from_json(stored, [task.image])


def test_a_model_for_another_task_names_the_task_it_is_for(pipelines: Pipelines) -> None:
    with pytest.raises(InputError, match=r"task: expected inpainting: .*9 channels, got text_to"):
        pipelines("heads9").run(Request("a"))
    depth = DepthToImage(picture(), np.zeros((8, 8), np.float32))
    with pytest.raises(
        InputError, match=r"text_to_image, hires_fix, image_to_image or inpainting: .*depth"
    ):
        pipelines("heads").run(Request("a", task=depth))


def test_the_command_inpaints_and_draws_it_again(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    image, white, out, again = (tmp_path / name for name in ("a.png", "m.png", "b.png", "c.png"))
    picture().save(image)
    mask().save(white)
    engine = ["--engine", "onnxruntime"]
    ordered = ["generate", bundle("heads9"), "a", "-o", out, "--image", image, "--mask", white]
    options = ["--mask-blur", 2, "--steps", 2, "--seed", 1, "--sampler", "euler"]
    assert run(*ordered, *options, *engine).status == 0
    repeated = ["generate", bundle("heads9"), "--from", out, "-o", again, *engine]
    assert "image: expected the image that was begun with" in run(*repeated).err
    assert run(*repeated, "--image", image, "--mask", white).status == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))
    assert run(*repeated, "--image", image, "--mask", white, "--mask-blur", 0).status == 0
    assert not np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mask", "MASK"), "mask: expected none without --image"),
        (("--image", "IMAGE", "--mask-blur", 2), "mask-blur: expected none without --mask"),
        (("--image", "IMAGE", "--mask", "/nowhere.png"), "/nowhere.png: no such file"),
        (("--image", "IMAGE", "--mask", __file__), "is not a readable picture"),
        (("--image", "IMAGE", "--mask", "MASK", "--mask-fill", "x"), "mask_fill: expected one of"),
    ],
)
def test_the_command_says_which_option_is_wrong(
    run: Run,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    options: tuple[Any, ...],
    message: str,
) -> None:
    picture().save(tmp_path / "a.png")
    mask().save(tmp_path / "m.png")
    files = {"IMAGE": tmp_path / "a.png", "MASK": tmp_path / "m.png"}
    given = [files.get(each, each) for each in options]
    done = run("generate", bundle("heads"), "a", "-o", tmp_path / "b.png", *given)
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "b.png").exists()
