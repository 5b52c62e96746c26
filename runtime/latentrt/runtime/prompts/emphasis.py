"""Weights of a prompt's words: `(word)`, `(word:1.3)`, `[word]`, escapes, and `BREAK`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

STRONGER: Final = 1.1
"""What round brackets without a number multiply a weight by."""
WEAKER: Final = 1 / 1.1
"""What square brackets multiply a weight by."""
DEEPEST: Final = 64
"""How deep brackets of one kind nest; further ones are text."""

_TOKEN: Final = re.compile(r"\\[()\[\]\\]?|[()\[\]]|:\s*([+-]?[.0-9]+)\s*\)|[^\\()\[\]:]+|:")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_BREAK: Final = re.compile(r"\bBREAK\b")


@dataclass(frozen=True, slots=True)
class WeightedText:
    """A piece of a prompt whose tokens have one weight."""

    text: str
    weight: float = 1.0


Parts = tuple[tuple[WeightedText, ...], ...]
"""What is between a prompt's `BREAK`s; neighbours of equal weight are one text."""


def weighted(prompt: str) -> Parts:
    """The pieces of a prompt with their weights, in time linear in its length.

    It accepts every text: a bracket that is never opened, and a number that is none, are text. A
    bracket that is never closed lasts to the end.

    Source: the rules of AUTOMATIC1111's web UI, whose `BREAK` is text inside brackets.
    """
    pieces: list[_Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for match in _TOKEN.finditer(prompt):
        token, number = match[0], match[1]
        if token[0] == "\\":
            pieces.append(_Piece(token[1:]))
        elif token in opened and len(opened[token]) < DEEPEST:
            opened[token].append(len(pieces))
        elif token == "]" and opened["["]:
            _multiply(pieces, opened["["].pop(), WEAKER)
        elif token == ")" and opened["("]:
            _multiply(pieces, opened["("].pop(), STRONGER)
        elif number and opened["("]:
            if _NUMBER.fullmatch(number):
                _multiply(pieces, opened["("].pop(), float(number))
            else:
                pieces.append(_Piece(token[:-1]))
                _multiply(pieces, opened["("].pop(), STRONGER)
        else:
            pieces += _broken(token)
    for kind, weight in (("(", STRONGER), ("[", WEAKER)):
        for first in opened[kind]:
            _multiply(pieces, first, weight)
    return _merged(pieces)


@dataclass(slots=True)
class _Piece:
    """A text, or a `BREAK` where it is None."""

    text: str | None
    weight: float = 1.0


def _multiply(pieces: list[_Piece], first: int, weight: float) -> None:
    # No piece is in more than `DEEPEST` brackets of a kind, so all this is linear.
    for place in range(first, len(pieces)):
        pieces[place].weight *= weight


def _broken(text: str) -> Iterator[_Piece]:
    """A text with its `BREAK`s, which take the spaces around them."""
    texts = _BREAK.split(text)
    for place, part in enumerate(texts):
        if place:
            yield _Piece(None)
            part = part.lstrip()
        yield _Piece(part.rstrip() if place < len(texts) - 1 else part)


def _merged(pieces: list[_Piece]) -> Parts:
    parts: list[tuple[WeightedText, ...]] = []
    texts: list[WeightedText] = []
    run: list[str] = []
    weight = 1.0
    for piece in (*pieces, _Piece(None)):
        if run and (piece.text is None or piece.weight != weight):
            texts.append(WeightedText("".join(run), weight))
            run = []
        if piece.text is None:
            parts.append(tuple(texts) or (WeightedText(""),))
            texts = []
        else:
            run.append(piece.text)
            weight = piece.weight
    return tuple(parts)
