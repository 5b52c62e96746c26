"""Pictures of one or two coloured shapes and the captions that describe them.

The world that `models/shapes` was trained on: what can be drawn, how it is drawn, and how it is
put into words. NumPy and Pillow only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from PIL import Image, ImageDraw

SIDE: Final = 128
"""Width and height of a picture in pixels."""

PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "red": (220, 35, 40),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 50),
    "green": (30, 150, 60),
    "blue": (35, 75, 215),
    "purple": (135, 45, 165),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
SHAPES: Final = ("circle", "square", "triangle", "star", "ring", "cross")
RADII: Final[dict[str, float]] = {"small": 18.0, "large": 31.0}
POSITIONS: Final[dict[str, tuple[float, float]]] = {
    "left": (35.0, 64.0),
    "right": (93.0, 64.0),
    "top": (64.0, 35.0),
    "bottom": (64.0, 93.0),
    "centre": (64.0, 64.0),
}
OPPOSITE: Final = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
RING_HOLE: Final = 0.5
"""Inner over outer radius of a ring."""

_SUPERSAMPLING: Final = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """One shape of a scene: what it is, and where exactly (pixels) it is drawn."""

    shape: str
    colour: str
    size: str
    position: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two figures, the largest first, on a background of one colour."""

    figures: tuple[Figure, ...]
    background: str

    @property
    def combinations(self) -> tuple[tuple[str, str, str], ...]:
        """(colour, shape, background) of every figure: what a split holds out."""
        return tuple((f.colour, f.shape, self.background) for f in self.figures)


def outline(shape: str, centre: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    """The corners of a polygon shape whose size is `radius`, in pixels; not for circle and ring."""
    if shape == "square":
        unit = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    elif shape == "triangle":
        unit = [(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]
    elif shape == "star":
        turns = [(math.pi * (k / 5 - 0.5), 1.05 if k % 2 == 0 else 0.48) for k in range(10)]
        unit = [(r * math.cos(a), r * math.sin(a) + 0.05) for a, r in turns]
    elif shape == "cross":
        w = 0.32
        unit = [(-w, -1.0), (w, -1.0), (w, -w), (1.0, -w), (1.0, w), (w, w)]
        unit += [(-x, -y) for x, y in unit]
    else:
        raise ValueError(f"no polygon for shape {shape!r}")
    return [(centre[0] + radius * x, centre[1] + radius * y) for x, y in unit]


def draw_mask(figure: Figure, *, side: int = SIDE, scale: int = 1) -> Image.Image:
    """The figure as a mask of mode "L": 255 inside, 0 outside, `side * scale` pixels square."""
    mask = Image.new("L", (side * scale, side * scale), 0)
    pen = ImageDraw.Draw(mask)
    centre = (figure.centre[0] * scale, figure.centre[1] * scale)
    radius = figure.radius * scale
    if figure.shape in ("circle", "ring"):
        pen.circle(centre, radius, fill=255)
        if figure.shape == "ring":
            pen.circle(centre, radius * RING_HOLE, fill=0)
    else:
        pen.polygon(outline(figure.shape, centre, radius), fill=255)
    return mask


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of 128 x 128 pixels with smooth edges."""
    picture = Image.new("RGB", (SIDE, SIDE), PALETTE[scene.background])
    for figure in scene.figures:
        mask = draw_mask(figure, scale=_SUPERSAMPLING).reduce(_SUPERSAMPLING)
        picture.paste(PALETTE[figure.colour], (0, 0), mask)
    return picture


def held_out(combination: tuple[str, str, str]) -> bool:
    """Whether this (colour, shape, background) never occurs in training: one in ten, by hash."""
    return hashlib.sha256(" ".join(combination).encode()).digest()[0] < 26


def _figure(rng: Random, size: str, position: str, colour: str) -> Figure:
    x, y = POSITIONS[position]
    return Figure(
        shape=rng.choice(SHAPES),
        colour=colour,
        size=size,
        position=position,
        centre=(x + rng.uniform(-1.5, 1.5), y + rng.uniform(-1.5, 1.5)),
        radius=RADII[size] * rng.uniform(0.95, 1.05),
    )


def _any_scene(rng: Random, pairs: float) -> Scene:
    background, first, second = rng.sample(tuple(PALETTE), 3)
    if rng.random() < pairs:
        position = rng.choice(tuple(OPPOSITE))
        large = _figure(rng, "large", position, first)
        return Scene((large, _figure(rng, "small", OPPOSITE[position], second)), background)
    size, position = rng.choice(tuple(RADII)), rng.choice(tuple(POSITIONS))
    return Scene((_figure(rng, size, position, first),), background)


def random_scene(rng: Random, *, pairs: float = 0.35, heldout: bool = False) -> Scene:
    """A scene of the training set, or (`heldout`) one whose largest figure's combination never is.

    `pairs` is the share of scenes with two figures.
    """
    while True:
        scene = _any_scene(rng, pairs)
        unseen = [held_out(c) for c in scene.combinations]
        if unseen[0] if heldout else not any(unseen):
            return scene


_SIZE_WORDS: Final = {"large": ("large", "large", "big"), "small": ("small", "small", "little")}
_PLACE_WORDS: Final[dict[str, Sequence[str]]] = {
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "centre": ("in the centre", "in the middle", "in the center"),
}


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _ground(scene: Scene) -> str:
    return f"{_article(scene.background)} {scene.background} background"


def _noun(figure: Figure, rng: Random) -> str:
    size = rng.choice(_SIZE_WORDS[figure.size])
    return f"a {size} {figure.colour} {figure.shape}"


def _placed(figure: Figure, rng: Random) -> str:
    return f"{_noun(figure, rng)} {rng.choice(_PLACE_WORDS[figure.position])}"


def caption(scene: Scene, rng: Random) -> str:
    """One of many wordings of the scene; a single centred figure may go without its place."""
    figures = list(scene.figures)
    rng.shuffle(figures)
    if len(figures) == 1 and figures[0].position == "centre" and rng.random() < 0.6:
        subject = _noun(figures[0], rng)
    else:
        subject = " and ".join(_placed(f, rng) for f in figures)
    ground = _ground(scene)
    return rng.choice(
        (
            f"{subject} on {ground}",
            f"{subject} on {ground}",
            f"{subject}, {ground.removeprefix('a ').removeprefix('an ')}",
            f"{ground} with {subject}",
            f"a picture of {subject} on {ground}",
        )
    )


def plain_caption(scene: Scene) -> str:
    """The one wording that evaluations use: every place named."""
    places = {p: words[0] for p, words in _PLACE_WORDS.items()}
    subject = " and ".join(
        f"a {f.size} {f.colour} {f.shape} {places[f.position]}" for f in scene.figures
    )
    return f"{subject} on {_ground(scene)}"
