"""What `adherence` sees in drawn, damaged and wrong pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

import scenes
from adherence import (
    Adherence,
    Recognised,
    check,
    evaluate,
    evaluation_scenes,
    judge,
    recognise,
    score,
)
from scenes import Figure, Scene, draw, held_out, plain_caption

RIGHT = Adherence(colour=True, background=True, position=True, shape=True)


@cache
def drawn() -> tuple[tuple[Scene, Image.Image], ...]:
    """400 scenes, half of them held out, and their pictures."""
    rng = Random(5)
    chosen = [scenes.random_scene(rng, heldout=i % 2 == 0) for i in range(400)]
    return tuple((scene, draw(scene)) for scene in chosen)


@cache
def recognised_scenes() -> tuple[tuple[Scene, Recognised], ...]:
    return tuple((scene, recognise(picture)) for scene, picture in drawn())


def noisy(picture: Image.Image, std: float = 12.0) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, std, (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).round().astype(np.uint8))


def blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(1))


def jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=50)
    return Image.open(file)


def speckled(picture: Image.Image) -> Image.Image:
    rng = np.random.default_rng(0)
    pixels, colours = np.array(picture), list(scenes.PALETTE.values())
    for _ in range(20):
        x, y = rng.integers(0, scenes.SIDE - 3, 2)
        pixels[y : y + 3, x : x + 3] = colours[rng.integers(len(colours))]
    return Image.fromarray(pixels)


def wobbly(picture: Image.Image) -> Image.Image:
    """Every pixel moved by about one, neighbours alike."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.normal(0, 1, (9, 9)).astype(np.float32)) for _ in "xy"]
    x, y = (np.asarray(c.resize(picture.size, Image.Resampling.BICUBIC)) for c in coarse)
    rows, columns = np.indices(x.shape)
    rows = np.clip(np.rint(rows + y), 0, picture.height - 1).astype(int)
    columns = np.clip(np.rint(columns + x), 0, picture.width - 1).astype(int)
    return Image.fromarray(np.asarray(picture)[rows, columns])


def one(
    shape: str = "star",
    colour: str = "red",
    position: str = "left",
    background: str = "white",
    size: str = "large",
) -> Scene:
    where, radius = scenes.POSITIONS[position], scenes.RADII[size]
    return Scene((Figure(shape, colour, size, position, where, radius),), background)


def test_drawn_pictures_are_right() -> None:
    shares = score([judge(recognised, scene) for scene, recognised in recognised_scenes()])
    assert min(shares.values()) >= 0.99, shares


# A model of a few million parameters draws noisy fills, soft edges and wobbly outlines; small
# stars and crosses are the first to be lost.
@pytest.mark.parametrize("damage", [noisy, blurred, jpeg, speckled, wobbly])
def test_damaged_pictures_are_still_right(damage: Callable[[Image.Image], Image.Image]) -> None:
    shares = score([check(damage(picture), scene) for scene, picture in drawn()[:200]])
    assert min(shares.values()) >= 0.97, shares


def test_the_caption_of_another_scene_is_wrong() -> None:
    def asked(scene: Scene) -> tuple[str, ...]:
        largest = scene.figures[0]
        return largest.colour, largest.shape, largest.position, scene.background

    rng, found = Random(6), list[Adherence]()
    for scene, recognised in recognised_scenes():
        other = scenes.random_scene(rng)
        if asked(other) != asked(scene):
            found.append(judge(recognised, other))
    assert len(found) > 300
    assert score(found)["all"] <= 0.05


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("colour", sorted(scenes.PALETTE.keys() - {"white"})),
        ("background", sorted(scenes.PALETTE.keys() - {"red"})),
        ("position", list(scenes.POSITIONS)),
        ("shape", list(scenes.SHAPES)),
    ],
)
@pytest.mark.parametrize("size", list(scenes.RADII))
def test_a_single_difference_is_found_alone(
    attribute: str, words: Sequence[str], size: str
) -> None:
    pictures = {word: draw(one(**{attribute: word, "size": size})) for word in words}
    for shown, picture in pictures.items():
        recognised = recognise(picture)
        for word in words:
            found = judge(recognised, one(**{attribute: word, "size": size}))
            assert found == replace(RIGHT, **{attribute: word == shown}), recognised


def test_the_smaller_of_two_touching_figures_is_not_looked_at() -> None:
    large = one("star", "red", "left").figures[0]
    small = replace(one("square", "orange", "right", size="small").figures[0], centre=(80.0, 64.0))
    picture = blurred(draw(Scene((large, small), "white")))
    assert check(picture, one("star", "red", "left")) == RIGHT, recognise(picture)


# Midway between red and orange, where noise decides which of the two a pixel is nearer to.
@pytest.mark.parametrize(
    ("above", "below"),
    [
        pytest.param((238, 98, 28), (238, 98, 28), id="even"),
        pytest.param((234, 82, 31), (240, 98, 28), id="uneven"),
    ],
)
def test_a_shape_between_two_colours_is_one_shape(
    above: tuple[int, int, int], below: tuple[int, int, int]
) -> None:
    pixels = np.array(draw(one("star", "red", "centre", "blue")))
    red = (pixels == scenes.PALETTE["red"]).all(2)
    pixels[red] = above
    pixels[red & (np.arange(scenes.SIDE) > 64)[:, None]] = below
    recognised = recognise(noisy(Image.fromarray(pixels)))
    assert recognised.shape == "star", recognised
    assert recognised.overlap > 0.95


# Between red and blue, blurred, lies purple: up to an eighth of the area of a cross.
@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_blurred_edges_belong_half_to_the_shape(shape: str) -> None:
    scene = one(shape, "red", "left", "blue")
    drawn_area = np.count_nonzero(np.asarray(scenes.draw_mask(scene.figures[0], scale=4))) / 16
    # What a blur rounds off at the tips and fills in at the corners is some 2 %.
    assert recognise(blurred(draw(scene))).area == pytest.approx(drawn_area, rel=0.03)


@pytest.mark.parametrize("background", list(scenes.PALETTE))
def test_a_blank_picture_has_no_shape(background: str) -> None:
    recognised = recognise(noisy(draw(Scene((), background))))
    assert (recognised.background, recognised.colour, recognised.shape) == (background, None, None)
    assert (recognised.position, recognised.area) == (None, 0)
    assert judge(recognised, one(background=background)) == Adherence(False, True, False, False)


def outlined(*corners: tuple[float, float]) -> Image.Image:
    picture = draw(Scene((), "white"))
    ImageDraw.Draw(picture).polygon(corners, fill=scenes.PALETTE["blue"])
    return picture


@pytest.mark.parametrize(
    "corners",
    [
        pytest.param([(64, 34), (94, 64), (64, 94), (34, 64)], id="diamond"),
        pytest.param([(34, 44), (94, 44), (94, 84), (34, 84)], id="oblong"),
        pytest.param([(34, 34), (94, 34), (94, 54), (54, 54), (54, 94), (34, 94)], id="angle"),
        pytest.param([(64, 94), (94, 40), (34, 40)], id="triangle upside down"),
        pytest.param([(0, 60), (128, 60), (128, 68), (0, 68)], id="stripe"),
    ],
)
def test_a_figure_outside_the_shapes_has_no_shape(corners: list[tuple[float, float]]) -> None:
    recognised = recognise(outlined(*corners))
    assert recognised.colour == "blue"
    assert recognised.shape is None, recognised


def test_a_shape_between_the_places_has_no_place() -> None:
    figure = replace(one("circle", size="small").figures[0], centre=(35.0, 35.0))
    assert recognise(draw(Scene((figure,), "white"))).position is None


def test_a_colour_outside_the_palette_has_no_name() -> None:
    grey = Image.new("RGB", (scenes.SIDE, scenes.SIDE), (128, 128, 128))
    assert recognise(grey).background is None
    grey.paste(draw(one()).crop((0, 30, 70, 98)), (0, 30))
    assert recognise(grey).background is None


def test_two_halves_are_no_background() -> None:
    picture = draw(Scene((), "white"))
    picture.paste(scenes.PALETTE["blue"], (0, 0, 64, 128))
    assert recognise(picture).background is None


def test_a_larger_picture_is_seen_the_same() -> None:
    picture = draw(one())
    assert recognise(picture.resize((256, 256))).position == recognise(picture).position == "left"
    with pytest.raises(ValueError, match="expected a square, got 256 x 128"):
        recognise(picture.resize((256, 128)))


def test_evaluation_scenes_are_held_out_and_stay_the_same() -> None:
    chosen = evaluation_scenes(200)
    assert len(chosen) == 200
    assert all(held_out(scene.combinations[0]) for scene in chosen)
    assert chosen[:50] == evaluation_scenes(50)
    assert {len(scene.figures) for scene in chosen} == {1, 2}


def test_a_report_counts_singles_and_pairs_apart_and_names_what_failed() -> None:
    chosen = evaluation_scenes(20)
    by_prompt = {plain_caption(scene): draw(scene) for scene in chosen}
    seeds_given = list[int]()
    first_pair = next(i for i, scene in enumerate(chosen) if len(scene.figures) == 2)

    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        seeds_given.extend(seeds)
        pictures = [by_prompt[prompt] for prompt in prompts]
        pictures[first_pair] = draw(Scene((), chosen[first_pair].background))
        return pictures

    report = evaluate(generate, chosen, first_seed=7)
    assert seeds_given == list(range(7, 27))
    assert set(report.shares["singles"].values()) == {1.0}
    pairs = sum(len(scene.figures) == 2 for scene in chosen)
    assert report.shares["pairs"]["all"] == pytest.approx(1 - 1 / pairs)
    assert report.shares["pairs"]["background"] == 1.0
    assert report.shares["all"]["shape"] == pytest.approx(0.95)
    assert [outcome.seed for outcome in report.failures] == [7 + first_pair]
    text = str(report)
    assert plain_caption(chosen[first_pair]) in text
    assert "no shape on" in text
    record = json.loads(json.dumps(report.record()))
    assert record["count"] == len(record["outcomes"]) == 20
    assert record["shares"] == report.shares


def test_an_empty_evaluation_has_no_shares() -> None:
    report = evaluate(lambda prompts, seeds: [], [])
    assert report.shares == {"all": {}, "singles": {}, "pairs": {}}
    assert "-" in str(report)
