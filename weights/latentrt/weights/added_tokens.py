"""Textual inversions of several vectors among a tokenizer's added tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set


def vectors_of(added: Set[str]) -> dict[str, tuple[str, ...]]:
    """The tokens of each textual inversion of several vectors: `<x>`, `<x>_1`, `<x>_2` for `<x>`.

    `added` are a tokenizer's added tokens.
    """
    found: dict[str, tuple[str, ...]] = {}
    for token in added:
        vectors = [token]
        while (following := f"{token}_{len(vectors)}") in added:
            vectors.append(following)
        if len(vectors) > 1:
            found[token] = tuple(vectors)
    return found


def expand(prompt: str, tokens: Iterable[str], vectors: Mapping[str, tuple[str, ...]]) -> str:
    """A prompt of these tokens in which all vectors of each textual inversion are named.

    Source: diffusers' `TextualInversionLoaderMixin.maybe_convert_prompt`, which takes the tokens in
    any order; here it is theirs in the prompt.
    """
    for token in dict.fromkeys(tokens):
        if token in vectors:
            prompt = prompt.replace(token, " ".join(vectors[token]))
    return prompt
