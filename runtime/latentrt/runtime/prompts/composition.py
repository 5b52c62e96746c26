"""Several prompts in one text: `a cat AND a dog :0.5`."""

from __future__ import annotations

import re
from typing import Final

_AND: Final = re.compile(r"\bAND\b")
_WEIGHT: Final = re.compile(r"\s*([+-]?(?:[0-9]+\.?|[0-9]*\.[0-9]+))\s*")


def split_prompts(prompt: str) -> tuple[tuple[str, float], ...]:
    """The prompts between the `AND`s of a text, each with its weight.

    A weight is what follows the last colon of such a prompt, if that is a number. A text without
    `AND` is one prompt of weight 1, whatever it ends with.

    Source: the rules of AUTOMATIC1111's web UI, which reads a weight without `AND` too.
    """
    texts = _AND.split(prompt)
    if len(texts) == 1:
        return ((prompt, 1.0),)
    return tuple(_weighted(text) for text in texts)


def _weighted(text: str) -> tuple[str, float]:
    before, colon, after = text.rpartition(":")
    match = _WEIGHT.fullmatch(after) if colon else None
    if match is None:
        return text.strip(), 1.0
    return before.strip(), float(match[1])
