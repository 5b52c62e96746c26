"""The body of a job becomes the request that its fields say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.serving.orders import mask, picture

from latentrt.bundle.errors import InputError
from latentrt.runtime import (
    Control,
    Guidance,
    HiresFix,
    Inpainting,
    Lora,
    Refiner,
    Request,
    Sampling,
    Size,
    canny,
)
from latentrt.runtime.pixels import as_pixels
from latentrt.runtime.reuse import FAST
from latentrt.serving.bodies import JobBody
from latentrt.serving.limits import Limits
from latentrt.serving.order import Order, order_of
from latentrt.serving.pictures import decoded_picture
from latentrt.serving.problem import Refused
from latentrt.serving.shelf import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Two models by name, a LoRA, an embedding and a ControlNet; no file is a real one."""
    for name in ("base", "refine", "loras", "embeddings", "controls/edges"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "controls" / "edges" / "config.json").write_text("{}")
    (tmp_path / "loras" / "ink.safetensors").write_bytes(b"")
    vectors = np.ones((2, 8), np.float32)
    save_file({"emb_params": vectors}, tmp_path / "embeddings" / "sunny.safetensors")
    folders = (tmp_path / "loras", tmp_path / "embeddings", tmp_path / "controls")
    return Shelf((tmp_path / "base", tmp_path / "refine"), *folders)


def order(shelf: Shelf, limits: Limits | None = None, **fields: object) -> Order:
    body = JobBody.model_validate({"prompt": "a fox", **fields})
    return order_of(body, shelf, limits or Limits())


def test_a_prompt_alone_is_a_request_with_its_defaults(shelf: Shelf) -> None:
    found = order(shelf)
    assert (found.model, found.request) == ("base", Request("a fox"))


def test_every_field_reaches_the_request(shelf: Shelf) -> None:
    asked = order(
        shelf,
        negative_prompt="grey",
        syntax="plain",
        size="96x64",
        num_images=2,
        seed=7,
        sampling={"sampler": "euler_a", "schedule": "karras", "steps": 9, "eta": 0.5, "rho": 5},
        guidance={"scale": 4, "rescale": 0.5, "interval": [0.3, 5], "start": 0.1, "stop": 0.9},
        clip_skip=1,
        composed=[["snow", 0.5]],
        generator="numpy",
        original_size="128x128",
        crop=[1, 2],
        target_size="64x64",
        subseed=3,
        subseed_strength=0.25,
        tiling="on",
        fast=True,
        task={"name": "hires_fix", "scale": 1.5, "steps": 4, "upscaler": "lanczos"},
        refiner={"name": "refine", "at": 0.7},
    ).request
    assert asked == Request(
        "a fox",
        negative_prompt="grey",
        syntax="plain",
        size=Size(96, 64),
        num_images=2,
        seed=7,
        sampling=Sampling("euler_a", schedule="karras", steps=9, eta=0.5, rho=5),
        guidance=Guidance(4, rescale=0.5, interval=(0.3, 5), start=0.1, stop=0.9),
        clip_skip=1,
        composed=[("snow", 0.5)],
        generator="numpy",
        original_size=Size(128, 128),
        crop=(1, 2),
        target_size=Size(64, 64),
        subseed=3,
        subseed_strength=0.25,
        tiling="on",
        reuse=FAST,
        task=HiresFix(1.5, steps=4, upscaler="lanczos"),
        refiner=Refiner(shelf.models[1], 0.7),
    )


def test_pictures_come_in_base64_and_as_data_urls(shelf: Shelf) -> None:
    task = {"name": "inpainting", "image": picture(1), "mask": mask(), "mask_blur": 2}
    found = order(shelf, task=task).request.task
    image, white = decoded_picture("", picture(1)), decoded_picture("", mask())
    assert found == Inpainting(image, white, mask_blur=2)
    url = "data:image/png;base64," + picture(1)
    assert order(shelf, task=task | {"image": url}).request.task == found


def test_a_controls_wrong_picture_is_named_with_its_number(shelf: Shelf) -> None:
    controls = [{"name": "edges", "image": each} for each in (picture(0), "bm8=")]
    for more in ({}, {"canny": (100, 200)}):
        with pytest.raises(InputError, match=r"controls\.1\.image: expected a picture"):
            order(shelf, controls=[controls[0], {**controls[1], **more}])


def test_loras_and_embeddings_are_found_by_their_names(shelf: Shelf) -> None:
    assert shelf.loras is not None
    path = shelf.loras / "ink.safetensors"
    found = order(shelf, prompt="a sunny fox, <lora:ink:0.5>", loras=[{"name": "ink", "scale": 2}])
    assert found.request.prompt == "a sunny fox,"
    first, second, embedding = found.request.weights
    assert (first, second) == (Lora(path, 2), Lora(path, 0.5))
    assert getattr(embedding, "token", None) == "sunny"


def test_a_controlnet_gets_the_pictures_edges_where_asked(shelf: Shelf) -> None:
    asked = {"name": "edges", "image": picture(2), "scale": 0.5, "end": 0.9, "mode": "control"}
    image = decoded_picture("", picture(2))
    assert shelf.controls is not None
    path = shelf.controls / "edges"
    (plain,) = order(shelf, controls=[asked]).request.controls
    assert plain == Control(path, image, 0.5, 0, 0.9, "control")
    (edges,) = order(shelf, controls=[{**asked, "canny": [50, 100]}]).request.controls
    assert np.array_equal(edges.image, canny(as_pixels("", image), 50, 100))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": "x" * 101}, "prompt"),
        ({"negative_prompt": "x" * 101}, "prompt"),
        ({"prompt": " AND ".join("abcd")}, "prompt"),
        ({"sampling": {"steps": 21}}, "steps"),
        ({"task": {"name": "hires_fix", "steps": 21}}, "steps"),
        ({"num_images": 3}, "num_images"),
        ({"size": "104x104"}, "size"),
        ({"size": "64x64", "task": {"name": "hires_fix", "scale": 2}}, "size"),
    ],
)
def test_limits_refuse_by_the_field(shelf: Shelf, fields: dict[str, object], field: str) -> None:
    limits = Limits(prompt=100, prompts=3, steps=20, images=2, pixels=100 * 100)
    with pytest.raises(InputError) as caught:
        order(shelf, limits, **fields)
    assert caught.value.field == field


def test_the_service_shortens_deadlines(shelf: Shelf) -> None:
    limits = Limits(deadline=10)
    found = [order(shelf, limits, deadline=asked).deadline for asked in (None, 3, 30)]
    assert found == [10, 3, 10]


def test_a_name_that_is_not_there_is_told_with_those_that_are(shelf: Shelf) -> None:
    with pytest.raises(InputError, match="lora: expected one of ink, got"):
        order(shelf, loras=[{"name": "../ink"}])
    with pytest.raises(Refused, match="model: expected one of base, refine, got 'other'"):
        order(shelf, model="other")
    with pytest.raises(
        InputError, match="control: expected none: the service has no --control-dir"
    ):
        order(Shelf(shelf.models), controls=[{"name": "edges", "image": picture(1)}])


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two of name 'a'"):
        Shelf((tmp_path / "a", tmp_path / "b" / "a.safetensors"))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="loras: expected a folder"):
        Shelf((tmp_path,), loras=tmp_path / "none")
