"""A prompt's tokens in chunks of the text encoder's length, each between BOS and EOS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.guidance import MAX_SCALE
from latentrt.runtime.prompts.emphasis import Parts, weighted
from latentrt.runtime.prompts.syntax import PLAIN, Syntax
from latentrt.runtime.text import PromptTokenizer

MOST_CHUNKS: Final = 32
"""The most chunks of a text."""
AFTER_COMMA: Final = 20
"""The most tokens after a comma that move to the next chunk with the word that does not fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """One evaluation of a text encoder: `ids` int64 and `weights` float32, [length] both.

    At `places` are the tokens of the prompt; what is around them has weight 1.
    """

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    places: range

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for equal tokens of equal weights."""
        return self.ids.tobytes(), self.weights.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedText:
    """A text in the chunks of each text encoder, by its name; `cut` is what was left out."""

    text: str
    chunks: Mapping[str, tuple[Chunk, ...]]
    cut: str = ""

    @property
    def count(self) -> int:
        """The most chunks that an encoder has of it."""
        return max(map(len, self.chunks.values()))


def chunk_text(
    field: str, text: str, syntax: Syntax, tokenizers: Mapping[str, PromptTokenizer]
) -> ChunkedText:
    """A text's tokens in chunks, by tokenizer; a plain text is cut after the first.

    Raises `InputError` for a text that is too long, or has a weight that is too large.
    """
    if syntax == PLAIN:
        tokens = {name: tokenizer(text) for name, tokenizer in tokenizers.items()}
        chunks = {
            name: (Chunk(found.ids, np.ones(len(found.ids), dtype=np.float32), found.places),)
            for name, found in tokens.items()
        }
        return ChunkedText(text, chunks, next(iter(tokens.values())).cut)
    parts = weighted(text)
    _check_weights(field, parts)
    chunked = {name: split_chunks(parts, each) for name, each in tokenizers.items()}
    for name, chunks in chunked.items():
        if len(chunks) > MOST_CHUNKS:
            room = tokenizers[name].length - 2
            expected = f"at most {MOST_CHUNKS} chunks of {room} tokens; syntax 'plain' cuts it"
            raise InputError(field, expected, len(chunks))
    return ChunkedText(text, chunked)


def _check_weights(field: str, parts: Parts) -> None:
    for piece in (piece for part in parts for piece in part):
        if not abs(piece.weight) <= MAX_SCALE:
            raise InputError(field, f"weights of at most {MAX_SCALE:g} either way", piece.weight)


def split_chunks(parts: Parts, tokenizer: PromptTokenizer) -> tuple[Chunk, ...]:
    """The chunks of a prompt, at least one; each `BREAK` begins another.

    The tokens of a textual inversion stay together. Where a chunk is full, the words after its last
    comma move to the next, unless they are more than `AFTER_COMMA` tokens.

    Source: the rules of AUTOMATIC1111's web UI.
    """
    found: list[Chunk] = []
    open_ = _Open()
    room, comma = tokenizer.length - 2, tokenizer.comma
    for place, part in enumerate(parts):
        if place:
            found.append(open_.closed(tokenizer))
            open_ = _Open()
        for piece in part:
            for word in _fitting(tokenizer.words(piece.text), room):
                while len(open_.ids) + len(word) > room:
                    full = len(open_.ids) == room and word != (comma,)
                    moved = open_.after_comma() if full else _Open()
                    found.append(open_.closed(tokenizer))
                    open_ = moved
                if word == (comma,):
                    open_.comma = len(open_.ids)
                open_.ids += word
                open_.weights += [piece.weight] * len(word)
    if open_.ids or not found:
        found.append(open_.closed(tokenizer))
    return tuple(found)


def _fitting(words: Sequence[tuple[int, ...]], room: int) -> Iterator[tuple[int, ...]]:
    """The words, those that no chunk has room for token by token."""
    for word in words if room else ():
        if len(word) <= room:
            yield word
        else:
            yield from ((id_,) for id_ in word)


@dataclass(slots=True)
class _Open:
    """A chunk that is being filled; `comma` is the place of its last comma."""

    ids: list[int] = field(default_factory=list[int])
    weights: list[float] = field(default_factory=list[float])
    comma: int | None = None

    def after_comma(self) -> _Open:
        """Take away what is after the last comma, if that is little enough."""
        if self.comma is None or len(self.ids) - self.comma > AFTER_COMMA:
            return _Open()
        begin = self.comma + 1
        moved = _Open(self.ids[begin:], self.weights[begin:])
        del self.ids[begin:], self.weights[begin:]
        return moved

    def closed(self, tokenizer: PromptTokenizer) -> Chunk:
        """The chunk with what is around its tokens."""
        ids, places = tokenizer.framed(self.ids)
        weights = np.ones(len(ids), dtype=np.float32)
        weights[places.start : places.stop] = self.weights
        return Chunk(ids, weights, places)
