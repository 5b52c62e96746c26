"""OpenAI's own client against the service."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from PIL import Image
from tests.serving.live import Live

QUICK = {"seed": 1, "num_inference_steps": 3}


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def pixels(text: str | None) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert text is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_models_are_listed_the_default_first(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["heads", "lists"]
    assert client.models.retrieve("lists").id == "lists"


def test_pictures_are_generated_in_the_size_and_number_asked_for(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="heads", prompt="a fox", n=2, size="auto", extra_body=QUICK
    )
    assert answer.data is not None
    first, second = (pixels(each.b64_json) for each in answer.data)
    assert first.shape == second.shape
    assert not np.array_equal(first, second)


def test_a_url_gives_the_same_picture(client: openai.OpenAI) -> None:
    import httpx

    asked = {"model": "heads", "prompt": "a fox", "extra_body": QUICK}
    (coded,) = client.images.generate(**asked).data or []
    (named,) = client.images.generate(**asked, response_format="url").data or []
    assert named.url is not None
    shown = np.asarray(Image.open(io.BytesIO(httpx.get(named.url).content)))
    assert np.array_equal(shown, pixels(coded.b64_json))


def test_an_edit_keeps_what_its_mask_does_not_let_through(client: openai.OpenAI) -> None:
    image = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))  # transparent: edit here
    answer = client.images.edit(
        model="heads",
        prompt="a fox",
        image=("in.png", png(image), "image/png"),
        mask=("mask.png", png(mask), "image/png"),
        extra_body=QUICK,
    )
    (edited,) = answer.data or []
    found, before = pixels(edited.b64_json), np.asarray(image)
    assert np.array_equal(found[:, 32:], before[:, 32:])
    assert not np.array_equal(found[:, :32], before[:, :32])


def test_a_stream_has_the_partial_pictures_asked_for_then_the_finished(
    client: openai.OpenAI,
) -> None:
    events = list(
        client.images.generate(
            model="heads", prompt="a fox", stream=True, partial_images=2, extra_body=QUICK
        )
    )
    assert [each.type for each in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [getattr(each, "partial_image_index", None) for each in events] == [0, 1, None]
    assert pixels(events[-1].b64_json).shape[2] == 3
    assert events[-1].usage.total_tokens == 0  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


@pytest.mark.parametrize(
    ("asked", "kind", "field"),
    [
        ({"size": "65x64"}, openai.BadRequestError, "size"),
        ({"size": "large"}, openai.BadRequestError, "size"),
        ({"n": 11}, openai.BadRequestError, "n"),
        ({"n": 5}, openai.BadRequestError, "num_images"),
        ({"model": "dall-e-9"}, openai.NotFoundError, "model"),
        ({"extra_body": {"stepz": 3}}, openai.BadRequestError, "stepz"),
        ({"extra_body": {"num_inference_steps": 41}}, openai.BadRequestError, "steps"),
    ],
)
def test_an_error_names_the_field(
    client: openai.OpenAI, asked: dict[str, object], kind: type[openai.APIStatusError], field: str
) -> None:
    with pytest.raises(kind) as caught:
        client.images.generate(**{"model": "heads", "prompt": "a fox", **asked})  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert caught.value.param == field  # pyright: ignore[reportAttributeAccessIssue]
