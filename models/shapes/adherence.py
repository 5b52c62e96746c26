"""Whether pictures show what their captions ask for.

Of a picture of two shapes only the largest is judged, and the background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Any, Final, TypeAlias

from PIL import Image

from recognise import Recognised, recognise
from scenes import Scene, plain_caption, random_scene

Generate: TypeAlias = Callable[[list[str], list[int]], Sequence[Image.Image]]
"""Takes prompts and a seed for each; returns a picture for each."""


@dataclass(frozen=True, slots=True)
class Adherence:
    """Which properties are right: of the background, and of the largest shape."""

    colour: bool
    background: bool
    position: bool
    shape: bool

    @property
    def all(self) -> bool:
        """Whether all four are right."""
        return self.colour and self.background and self.position and self.shape


_COLUMNS: Final = (*(field.name for field in fields(Adherence)), "all")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt of an evaluation and what its picture shows."""

    scene: Scene
    prompt: str
    seed: int
    recognised: Recognised
    adherence: Adherence


@dataclass(frozen=True, slots=True)
class Report:
    """An evaluation: an outcome for every scene, in their order."""

    outcomes: tuple[Outcome, ...]

    @property
    def groups(self) -> dict[str, tuple[Outcome, ...]]:
        """All outcomes, those of scenes with one figure and those of scenes with two."""
        return {
            "all": self.outcomes,
            "singles": tuple(o for o in self.outcomes if len(o.scene.figures) == 1),
            "pairs": tuple(o for o in self.outcomes if len(o.scene.figures) > 1),
        }

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """The `score` of every group."""
        return {name: score([o.adherence for o in group]) for name, group in self.groups.items()}

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes that have anything wrong."""
        return tuple(o for o in self.outcomes if not o.adherence.all)

    def __str__(self) -> str:
        """An aligned table of the shares, in percent, and a line for every failure."""
        lines = [f"{'prompts':<8}{'count':>7}" + "".join(f"{c:>12}" for c in _COLUMNS)]
        for name, group in self.groups.items():
            shares = score([o.adherence for o in group])
            cells = (f"{shares[c]:.1%}" if shares else "-" for c in _COLUMNS)
            lines.append(f"{name:<8}{len(group):>7}" + "".join(f"{c:>12}" for c in cells))
        for o in self.failures:
            wrong = ", ".join(k for k, right in asdict(o.adherence).items() if not right)
            lines += ["", f"{o.prompt} (seed {o.seed})", f"  wrong: {wrong}; seen: {o.recognised}"]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """The shares and every outcome as values that JSON can hold."""
        return {
            "count": len(self.outcomes),
            "shares": self.shares,
            "outcomes": [
                {
                    "prompt": o.prompt,
                    "seed": o.seed,
                    "figures": len(o.scene.figures),
                    "right": asdict(o.adherence),
                    "seen": asdict(o.recognised),
                }
                for o in self.outcomes
            ],
        }


def judge(recognised: Recognised, scene: Scene) -> Adherence:
    """Which of the properties that the scene asks for were recognised."""
    asked = scene.figures[0]
    return Adherence(
        colour=recognised.colour == asked.colour,
        background=recognised.background == scene.background,
        position=recognised.position == asked.position,
        shape=recognised.shape == asked.shape,
    )


def check(picture: Image.Image, scene: Scene) -> Adherence:
    """Which of the properties that the scene asks for a square picture shows."""
    return judge(recognise(picture), scene)


def score(found: Sequence[Adherence]) -> dict[str, float]:
    """The share, 0 to 1, that is right in each field and in `all`; empty where nothing is given."""
    if not found:
        return {}
    return {c: sum(getattr(a, c) for a in found) / len(found) for c in _COLUMNS}


def evaluation_scenes(count: int = 200, *, seed: int = 2026) -> tuple[Scene, ...]:
    """The scenes of an evaluation; no training picture has their largest figure's combination."""
    rng = Random(seed)
    return tuple(random_scene(rng, heldout=True) for _ in range(count))


def evaluate(generate: Generate, scenes: Sequence[Scene], *, first_seed: int = 0) -> Report:
    """Have the plain captions of the scenes drawn, seeds counting up, and judge the pictures.

    `generate` is called once with all prompts. Raises ValueError where it gives more or fewer
    pictures than prompts, or one that is not square.
    """
    prompts = [plain_caption(scene) for scene in scenes]
    seeds = list(range(first_seed, first_seed + len(prompts)))
    outcomes: list[Outcome] = []
    for asked in zip(scenes, prompts, seeds, generate(prompts, seeds), strict=True):
        scene, prompt, seed, picture = asked
        recognised = recognise(picture)
        outcomes.append(Outcome(scene, prompt, seed, recognised, judge(recognised, scene)))
    return Report(tuple(outcomes))
