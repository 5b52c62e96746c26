"""PyTorch's answers to any prompt, made now.

What it evaluates and how is `latentrt.export.reference`'s, which makes the goldens.

Imports PyTorch: `pip install 'latentrt[bench]'`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from latentrt.benchmarks.numerics.comparison import Question, Reference
from latentrt.benchmarks.numerics.original import Original
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.export.latent_space import LatentSpace
from latentrt.export.reference import GoldenInputs, Goldens
from latentrt.runtime.size import Size

SMALLEST: Final = 16
"""Pixels along an axis: the window of SSIM needs 11."""


def answer(
    bundle: Bundle, original: Original, question: Question, advance: Callable[[], None]
) -> Reference:
    """PyTorch's answers in fp32; `advance` is called once a component.

    Raises `InputError` for a size that the model has not or that is too small to be judged.
    """
    vae = original.parts["vae"].config
    latents = LatentSpace.of(f"{original.name}/vae", original.family, vae)
    height, width = (n * latents.factor for n in bundle.manifest.sample_size)
    size = question.size or Size(width, height)
    pixels = size.height, size.width
    if any(n % latents.factor or n < SMALLEST for n in pixels):
        expected = f"multiples of {latents.factor}, at least {SMALLEST}"
        raise InputError("size", expected, size)
    inputs = GoldenInputs(
        input_ids=original.tokens(question.prompt),
        negative_input_ids=original.tokens(""),
        zeros=original.zeros,
        scheduler_config=original.scheduler_config,
        forced=original.family.forced,
        sample_size=(size.height // latents.factor, size.width // latents.factor),
        size=pixels,
        unscale=latents.unscale,
        steps=question.steps,
        seed=question.seed,
    )
    goldens = Goldens(original.parts, original.weights, inputs, advance)
    return Reference(question.prompt, f"seed {question.seed}", goldens.tensors())
