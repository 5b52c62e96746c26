"""Tasks with models/shapes: what they draw, as `recognise` sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from extras import CONTROLNET, colours_caption, line_drawing
from latentrt.runtime import (
    Control,
    ImageToImage,
    Inpainting,
    Pipeline,
    Request,
    Sampling,
    canny,
)
from latentrt.runtime.tasks import Task
from recognise import recognise
from scenes import POSITIONS, RADII, Figure, Scene, draw

STEPS = Sampling(steps=12)
PLAIN = Scene((), "yellow")


def figure(shape: str, colour: str, position: str, size: str = "large") -> Figure:
    return Figure(shape, colour, size, position, POSITIONS[position], RADII[size])


@pytest.fixture(scope="module")
def pipe(checkpoint: Callable[[str], Path]) -> Iterator[Pipeline]:
    with Pipeline.open(checkpoint("shapes"), engine="onnxruntime") as opened:
        yield opened


def drawn(pipe: Pipeline, prompt: str, task: Task, guidance: float = 5.0) -> Image.Image:
    request = Request(prompt, seed=1, task=task, sampling=STEPS, guidance=guidance)
    return pipe(request).images[0]


def test_image_to_image_turns_a_blue_square_into_a_red_circle_at_high_strength_alone(
    pipe: Pipeline,
) -> None:
    begun = draw(Scene((figure("square", "blue", "centre"),), "yellow"))
    prompt = "a large red circle on a yellow background"
    # At guidance 5, four steps are enough for this model to paint a circle over it.
    kept, turned = (drawn(pipe, prompt, ImageToImage(begun, s), 2.0) for s in (0.2, 0.8))
    found = recognise(turned)
    assert (found.colour, found.shape) == ("red", "circle")
    assert recognise(kept).shape == "square"
    assert recognise(kept).colour != "red"


@pytest.mark.parametrize("position", ["left", "right"])
def test_inpainting_draws_the_prompt_within_the_mask_and_leaves_the_outside(
    pipe: Pipeline, position: str
) -> None:
    mask = Image.new("L", (128, 128))
    left = 0 if position == "left" else 56
    ImageDraw.Draw(mask).rectangle((left, 24, left + 71, 104), fill=255)
    begun = draw(PLAIN)
    prompt = f"a large red circle on the {position} on a yellow background"
    picture = drawn(pipe, prompt, Inpainting(begun, mask))
    found = recognise(picture)
    assert (found.colour, found.shape, found.position) == ("red", "circle", position)
    outside = np.asarray(mask) == 0
    np.testing.assert_array_equal(np.asarray(picture)[outside], np.asarray(begun)[outside])


def outlines() -> list[Scene]:
    """Ten circles: large and small ones at every place."""
    colours = ("red", "blue", "green", "purple", "orange")
    grounds = ("white", "yellow", "black", "white", "blue")
    return [
        Scene((figure("circle", colour, position, size),), ground)
        for size in RADII
        for position, colour, ground in zip(POSITIONS, colours, grounds, strict=True)
    ]


@pytest.mark.parametrize("lines", ["canny", "drawn"])
def test_a_controlnet_puts_a_figure_where_its_edges_are_in_nine_of_ten(
    pipe: Pipeline, lines: str
) -> None:
    scenes = outlines()
    edges = [
        canny(draw(scene)) if lines == "canny" else np.asarray(line_drawing(scene, 2))
        for scene in scenes
    ]
    # The prompt names colours alone.
    requests = [
        Request(colours_caption(scene), seed=i, sampling=STEPS, guidance=5.0)
        for i, scene in enumerate(scenes)
    ]
    controlled = [
        request.with_values(controls=[Control(CONTROLNET, each)])
        for request, each in zip(requests, edges, strict=True)
    ]
    assert followed(pipe, controlled, scenes) >= 9
    assert followed(pipe, requests, scenes) <= 4


def followed(pipe: Pipeline, requests: list[Request], scenes: list[Scene]) -> int:
    """How many pictures have a figure at its place, of its size, on its background."""
    count = 0
    for request, scene in zip(requests, scenes, strict=True):
        found, (asked,) = recognise(pipe(request).images[0]), scene.figures
        size = asked.radius / 1.3 < (found.area / np.pi) ** 0.5 < asked.radius * 1.3
        count += size and (found.position, found.background) == (asked.position, scene.background)
    return count
