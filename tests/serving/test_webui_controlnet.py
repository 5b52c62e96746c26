"""ControlNet by the web UI's API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webuiapi
from PIL import Image
from tests.controlnets import hint_picture, saved_controlnet
from tests.serving.live import Live, listening, service
from tests.serving.webui_client import QUICK, Alone, client_of, drawing_alone

from latentrt.runtime import Control, ImageToImage, Request, Sampling, canny
from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf

NAME = "tiny_canny"


@pytest.fixture(scope="module")
def controlled(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    """A service with a ControlNet."""
    folder = tmp_path_factory.mktemp("controls")
    saved_controlnet(checkpoint("heads"), folder / NAME)
    shelf = Shelf((bundle("heads"),), controls=folder)
    with listening(service(shelf, Limits(steps=40, images=4))) as found:
        yield found


def coded(image: Any) -> str:
    return webuiapi.b64_img(image)


def unit_of(**fields: Any) -> Any:
    return webuiapi.ControlNetUnit(**fields)


@pytest.fixture(scope="module")
def alone(controlled: Live) -> Iterator[Alone]:
    with drawing_alone(controlled) as found:
        yield found


@pytest.fixture
def client(controlled: Live) -> Any:
    return client_of(controlled)


@pytest.fixture
def hint() -> Image.Image:
    return Image.fromarray(hint_picture())


@pytest.fixture
def with_unit(controlled: Live, alone: Alone) -> Any:
    """What the runtime draws alone with that ControlNet."""

    def drawn(image: Any, task: Any = None, **fields: Any) -> Any:
        control = Control(controlled.service.shelf.control(NAME), image, **fields)
        sampling = Sampling("euler_ancestral", "linspace", steps=3, eta=1.0)
        request = Request("a fox", seed=5, sampling=sampling, guidance=7.0, controls=[control])
        return alone(request if task is None else request.with_values(task=task))

    return drawn


def test_a_unit_guides_the_picture(client: Any, with_unit: Any, hint: Image.Image) -> None:
    unit = unit_of(
        image=hint, model=f"{NAME} [d14c016b]", weight=0.7, guidance_end=0.6, control_mode=2
    )
    answer = client.txt2img(**QUICK, controlnet_units=[unit])
    expected = with_unit(hint, scale=0.7, end=0.6, mode="control")
    assert np.array_equal(np.asarray(answer.image), expected)


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ("My prompt is more important", "prompt"),
        (["ControlNet is more important"], "control"),
        (1, "prompt"),
        ([0], "balanced"),
    ],
)
def test_the_mode_is_a_text_a_number_or_a_list_of_one(
    client: Any, with_unit: Any, hint: Image.Image, given: Any, mode: str
) -> None:
    args = {
        "input_image": coded(hint),
        "model": NAME.upper(),
        "control_mode": given,
        "pixel_perfect": True,
    }
    answer = client.txt2img(**QUICK, alwayson_scripts={"controlnet": {"args": [args]}})
    assert np.array_equal(np.asarray(answer.image), with_unit(hint, mode=mode))


def test_edges_are_found_at_the_picture_s_size(
    client: Any, with_unit: Any, hint: Image.Image
) -> None:
    unit = unit_of(
        image=hint.resize((128, 64)), model=NAME, module="canny", threshold_a=60, threshold_b=90
    )
    unit.resize_mode = "Just Resize"
    answer = client.txt2img(**QUICK, controlnet_units=[unit])
    small = hint.resize((128, 64)).resize((64, 64), Image.Resampling.LANCZOS)
    expected = with_unit(canny(small, 60, 90))
    assert np.array_equal(np.asarray(answer.image), expected)


def test_a_unit_without_a_picture_has_that_of_image_to_image(
    client: Any, with_unit: Any, hint: Image.Image
) -> None:
    unit = unit_of(model=NAME)
    answer = client.img2img([hint], controlnet_units=[unit], **QUICK)
    task = ImageToImage(hint, 0.75, "webui")
    assert np.array_equal(np.asarray(answer.image), with_unit(hint, task))


@pytest.mark.parametrize("off", [{"enabled": False}, {"weight": 0.0}])
def test_a_unit_that_is_off_does_nothing(client: Any, hint: Image.Image, off: Any) -> None:
    unit = unit_of(image=hint, model="no such", **off)
    plain, without = client.txt2img(**QUICK, controlnet_units=[unit]), client.txt2img(**QUICK)
    assert np.array_equal(np.asarray(plain.image), np.asarray(without.image))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": "other"}, "control"),
        ({"module": "depth_midas"}, "module"),
        ({"control_mode": "All"}, "controlnet 0 control_mode"),
        ({"weight": -1}, "controlnet 0 weight"),
        ({"image": None}, "controlnet 0 image"),
        ({"guidance_start": 0.9, "guidance_end": 0.1}, "control start"),
    ],
)
def test_what_a_unit_cannot_have_is_refused_by_name(
    client: Any, hint: Image.Image, fields: dict[str, Any], field: str
) -> None:
    unit = unit_of(**{"image": hint, "model": NAME, **fields})
    with pytest.raises(RuntimeError) as caught:
        client.txt2img(**QUICK, controlnet_units=[unit])
    status, text = caught.value.args
    assert status == 400
    assert f'"detail":"{field}: expected' in text


def test_controlnets_and_preprocessors_are_listed(client: Any) -> None:
    assert client.controlnet_version() == 2
    assert client.controlnet_model_list() == [NAME]
    assert client.controlnet_module_list() == ["none", "canny"]


def test_edges_can_be_asked_for_alone(client: Any, hint: Image.Image) -> None:
    answer = client.controlnet_detect([hint], "canny", threshold_a=60, threshold_b=90)
    assert np.array_equal(np.asarray(answer.image), canny(hint, 60, 90))


def test_a_controlnet_reads_what_fits_the_size(
    client: Any, with_unit: Any, hint: Image.Image
) -> None:
    wide = hint.resize((128, 64))
    unit = unit_of(image=wide, model=NAME, resize_mode="Crop and Resize")
    answer = client.txt2img(**QUICK, controlnet_units=[unit])
    expected = with_unit(wide.crop((32, 0, 96, 64)))
    assert np.array_equal(np.asarray(answer.image), expected)
