"""Values of options that have several parts, such as WIDTHxHEIGHT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from latentrt.bundle.errors import InputError
from latentrt.engines.options import value_of
from latentrt.engines.verification.verify import Verify, check_verify
from latentrt.runtime import Interpolation, Refiner, Size
from latentrt.runtime.checks import one_of
from latentrt.runtime.request_fields import TILINGS, Tiling

FRAMES: Final = 8
"""Pictures from one prompt or seed to another, unless another number is given."""


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(option, "numbers with commas between", repr(text)) from None


def counts(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise InputError(option, "whole numbers with commas between", repr(text)) from None


def interval(option: str, text: str) -> tuple[float, float]:
    """LOW,HIGH."""
    found = numbers(option, text)
    if len(found) != 2:
        raise InputError(option, "LOW,HIGH", repr(text))
    return found[0], found[1]


def size_of(option: str, text: str | None) -> Size | None:
    """WIDTHxHEIGHT in pixels, None for None."""
    try:
        return None if text is None else Size.parse(text)
    except InputError as error:
        raise InputError(option, error.expected, error.got) from None


def corner(option: str, text: str) -> tuple[int, int]:
    """TOP,LEFT in pixels."""
    try:
        top, left = (int(word) for word in text.split(","))
    except ValueError:
        raise InputError(option, "TOP,LEFT in pixels", repr(text)) from None
    return top, left


def weighted(option: str, text: str) -> tuple[str, float]:
    """PROMPT=WEIGHT; the prompt may contain "=" too."""
    prompt, _, weight = text.rpartition("=")
    try:
        return prompt, float(weight)
    except ValueError:
        raise InputError(option, "PROMPT=WEIGHT", repr(text)) from None


def engine_options(option: str, texts: Sequence[str]) -> dict[str, object]:
    """NAME=VALUE each; integers, true and false are taken as such."""
    return {name: value_of(text) for name, text in assignments(option, texts).items()}


def verify_of(text: str) -> Verify:
    """How engines are verified; raises `InputError` for what is none."""
    check_verify(text)
    return cast("Verify", text)


def refiner_of(path: Path | None, at: float | None) -> Refiner | None:
    """The refiner of two options; raises `InputError` for a share without a refiner."""
    if path is None:
        if at is not None:
            raise InputError("refiner-at", "none without --refiner", at)
        return None
    return Refiner(path) if at is None else Refiner(path, at)


def interpolation_of(prompt: str | None, seed: int | None) -> Interpolation | None:
    """What two options go to; None where neither is given."""
    return None if prompt is None and seed is None else Interpolation(prompt, seed)


def tiling_of(text: str) -> Tiling:
    """Whether pictures are decoded in tiles; raises `InputError` for what does not say."""
    return one_of("tile", text, TILINGS)


def assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE each."""
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise InputError(option, "NAME=VALUE", repr(text))
        found[name] = value
    return found
