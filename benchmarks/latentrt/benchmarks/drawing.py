"""Whether a bundle of models/shapes draws what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PIL import Image

from latentrt.benchmarks.adherence import Report, evaluate, evaluation_scenes
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.runtime import Pipeline, Request, Sampling

SOURCE: Final = "shapes"
"""The checkpoint, as manifests name it, whose pictures can be judged by their pixels."""
STEPS: Final = 20
GUIDANCE: Final = 5.0


def check_drawing(bundle: Bundle, count: int) -> None:
    """Raise `InputError` for a bundle of another checkpoint, or fewer than one picture."""
    if bundle.manifest.source != SOURCE:
        expected = f"a bundle of models/{SOURCE}, whose pictures can be judged"
        raise InputError("adherence", expected, f"one of {bundle.manifest.source}")
    if count < 1:
        raise InputError("adherence", "at least 1 picture", count)


def evaluation(
    pipeline: Pipeline,
    count: int,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    tell: Callable[[int, int], None],
) -> Report:
    """Have that many prompts drawn, the same for everybody, and judge the pictures.

    `tell` is given how many are drawn, and of how many.
    """
    sampling = Sampling(steps=steps)

    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            tell(len(pictures), len(prompts))
            request = Request(prompt, seed=seed, sampling=sampling, guidance=guidance)
            pictures += pipeline(request).images
        return pictures

    return evaluate(generate, evaluation_scenes(count))
