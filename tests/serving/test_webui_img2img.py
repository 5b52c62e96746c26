"""The web UI's img2img, by its own client: steps, masks, resize modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.serving.live import Live
from tests.serving.webui_client import QUICK, Alone, client_of, drawing_alone

from latentrt.runtime import ImageToImage, Inpainting, Request, Sampling
from latentrt.runtime.size import Size
from latentrt.serving.webui.resizing import resized_picture

EULER = {"sampler_name": "Euler", "eta": None}


@pytest.fixture(scope="module")
def alone(live: Live) -> Iterator[Alone]:
    with drawing_alone(live) as found:
        yield found


@pytest.fixture
def client(live: Live) -> Any:
    return client_of(live)


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 20).convert("RGB")


@pytest.fixture
def mask() -> Image.Image:
    """White in its left half."""
    found = Image.new("L", (64, 64))
    found.paste(255, (0, 0, 32, 64))
    return found


def request_of(task: Any) -> Request:
    sampling = Sampling("euler", "linspace", steps=3)
    return Request("a fox", seed=5, task=task, size=Size(64, 64), sampling=sampling, guidance=7.0)


@pytest.mark.parametrize(("strength", "taken"), [(0, 1), (0.35, 4), (0.5, 6), (0.999, 10), (1, 10)])
def test_one_step_more_is_taken_than_the_strength_says(
    client: Any,
    live: Live,
    image: Image.Image,
    strength: float,
    taken: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its step is read after the client has the picture.
    monkeypatch.setattr(live.service.jobs, "forget", lambda job: None)
    client.img2img([image], denoising_strength=strength, **QUICK | {"steps": 10}, **EULER)
    *_, job = live.service.jobs
    assert job.newest is not None
    # The web UI's int(min(strength, 0.999) * steps) + 1.
    assert job.newest.total == taken


def test_a_redrawn_picture_is_the_one_that_is_drawn_alone(
    client: Any, alone: Alone, image: Image.Image
) -> None:
    answer = client.img2img([image], denoising_strength=0.6, **QUICK, **EULER)
    request = request_of(ImageToImage(image, 0.6, "webui"))
    assert np.array_equal(np.asarray(answer.image), alone(request))
    assert answer.parameters["init_images"] is None
    assert answer.info["denoising_strength"] == 0.6


FILLS = [(0, "blur"), (1, "original"), (2, "noise"), (3, "nothing")]


@pytest.mark.parametrize(("number", "fill"), FILLS)
def test_a_masked_picture_begins_with_the_content_asked_for(
    client: Any, alone: Alone, image: Image.Image, mask: Image.Image, number: int, fill: Any
) -> None:
    fields = {"mask_blur": 2, "inpainting_fill": number, "inpaint_full_res": False}
    answer = client.img2img([image], mask_image=mask, **fields, **QUICK, **EULER)
    task = Inpainting(image, mask, 0.75, "webui", mask_blur=2.0, mask_fill=fill)
    assert np.array_equal(np.asarray(answer.image), alone(request_of(task)))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_white_is_redrawn_and_black_is_kept_unless_they_are_exchanged(
    client: Any, image: Image.Image, mask: Image.Image, invert: bool, whole: bool
) -> None:
    answer = client.img2img(
        [image],
        mask_image=mask,
        mask_blur=0,
        inpainting_mask_invert=int(invert),
        inpaint_full_res=not whole,
        inpaint_full_res_padding=8,
        **QUICK,
        **EULER,
    )
    found, before = np.asarray(answer.image), np.asarray(image)
    left, right = np.s_[:, :32], np.s_[:, 32:]
    kept, drawn = (left, right) if invert else (right, left)
    assert np.array_equal(found[kept], before[kept])
    assert not np.array_equal(found[drawn], before[drawn])


def test_the_masked_part_alone_is_drawn_into_a_picture_of_another_size(
    client: Any, image: Image.Image
) -> None:
    large = image.resize((160, 128))
    mask = Image.new("RGBA", large.size, (0, 0, 0, 0))  # opaque: redrawn
    mask.paste((0, 0, 0, 255), (16, 16, 48, 48))
    answer = client.img2img([large], mask_image=mask, mask_blur=0, **QUICK, **EULER)
    found, before = np.asarray(answer.image), np.asarray(large)
    changed = (found != before).any(axis=2)
    assert found.shape == before.shape
    assert changed[16:48, 16:48].mean() > 0.5
    changed[16:48, 16:48] = False
    assert not changed.any()


def stripes(width: int, height: int) -> Image.Image:
    """Red on the left, green in the middle half, blue on the right."""
    found = Image.new("RGB", (width, height), (0, 255, 0))
    found.paste((255, 0, 0), (0, 0, width // 4, height))
    found.paste((0, 0, 255), (width - width // 4, 0, width, height))
    return found


def test_a_cropped_picture_keeps_its_middle() -> None:
    found = np.asarray(resized_picture(stripes(256, 64), 1, Size(64, 64)))
    assert (found == (0, 255, 0)).all()


def test_a_filled_picture_keeps_its_sides_and_goes_on_at_its_borders() -> None:
    found = np.asarray(resized_picture(stripes(64, 32), 2, Size(64, 64)))
    assert found.shape == (64, 64, 3)
    assert (found[:, :14] == (255, 0, 0)).all()
    assert (found[:, -14:] == (0, 0, 255)).all()
    tall = np.asarray(resized_picture(stripes(64, 64).rotate(90).resize((32, 64)), 2, Size(64, 64)))
    assert (tall[:12] == (0, 0, 255)).all()
    assert (tall[-12:] == (255, 0, 0)).all()


def test_a_stretched_picture_has_all_of_itself() -> None:
    found = np.asarray(resized_picture(stripes(256, 64), 0, Size(64, 64)))
    assert tuple(found[0, 0]) == (255, 0, 0)
    assert tuple(found[0, -1]) == (0, 0, 255)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_a_picture_of_other_proportions_is_resized_as_its_mode_says(
    client: Any, alone: Alone, image: Image.Image, mode: int
) -> None:
    wide = image.resize((96, 64))
    answer = client.img2img([wide], resize_mode=mode, **QUICK, **EULER)
    fitted = resized_picture(wide, mode, Size(64, 64))
    request = request_of(ImageToImage(fitted, 0.75, "webui"))
    assert np.array_equal(np.asarray(answer.image), alone(request))


def test_what_is_transparent_is_taken_as_white(client: Any, alone: Alone) -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    answer = client.img2img([clear], **QUICK, **EULER)
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    request = request_of(ImageToImage(white, 0.75, "webui"))
    assert np.array_equal(np.asarray(answer.image), alone(request))
