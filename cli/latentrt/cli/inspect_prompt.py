"""The work of `latentrt inspect --prompt`: how a bundle's model reads a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import FILE_NAME
from latentrt.cli.table import print_table
from latentrt.runtime import Request, Sampling
from latentrt.runtime.prompts.chunks import Chunk, ChunkedText, chunk_text
from latentrt.runtime.prompts.reading import ReadPrompt, positive_prompts, read_prompt
from latentrt.runtime.prompts.schedule import Steps
from latentrt.runtime.prompts.syntax import Syntax
from latentrt.runtime.text import PromptTokenizer

_END: Final = "</w>"
_MOST_STEPS: Final = 1000
"""The timesteps of a model."""


def describe_prompt(path: Path, prompt: str, *, steps: int, syntax: Syntax) -> dict[str, Any]:
    """The prompts of a text, their texts by steps, and each one's chunks of weighted tokens.

    The tokens are those of the first text encoder. Raises `InputError` for a path without a bundle
    and for a prompt that is too long.
    """
    if steps > _MOST_STEPS:
        raise InputError("steps", f"an integer from 1 to {_MOST_STEPS}", steps)
    if not (path / FILE_NAME).is_file():
        raise InputError("path", "a bundle, with --prompt", path)
    tokenizer = PromptTokenizer.of(Bundle.open(path))
    request = Request(prompt, sampling=Sampling(steps=steps), syntax=syntax)

    def chunk(field: str, text: str) -> ChunkedText:
        return chunk_text(field, text, syntax, {"text_encoder": tokenizer})

    read = partial(read_prompt, request=request, steps=Steps(steps), chunk=chunk)
    found = [read(f, text, weight=weight) for f, text, weight in positive_prompts(request)]
    length = tokenizer.length
    return {
        "prompts": [_prompt(each, tokenizer) for each in found],
        "steps": steps,
        "length": length * max(each.chunks for each in found),
        "notes": [note for each in found for note in each.notes(length)],
    }


def _prompt(prompt: ReadPrompt, tokenizer: PromptTokenizer) -> dict[str, Any]:
    firsts = [1, *(last + 1 for last, _ in prompt.texts)]
    return {
        "weight": prompt.weight,
        "texts": [
            {
                "steps": [first, last],
                "text": text.text,
                "chunks": [_chunk(each, tokenizer) for each in text.chunks["text_encoder"]],
            }
            for first, (last, text) in zip(firsts, prompt.texts, strict=False)
        ],
    }


def _chunk(chunk: Chunk, tokenizer: PromptTokenizer) -> list[dict[str, Any]]:
    return [
        {
            "id": int(chunk.ids[place]),
            "token": tokenizer.name(int(chunk.ids[place])),
            # The shortest number that is the same in float32.
            "weight": float(str(chunk.weights[place])),
        }
        for place in chunk.places
    ]


def print_prompt(described: dict[str, Any]) -> None:
    """As a table: a row for each run of tokens with one weight."""
    heads = ("prompt", "steps", "chunk", "tokens", "weight", "text")
    rows = [row for number, each in enumerate(described["prompts"]) for row in _rows(number, each)]
    print_table(heads, list(_once(rows)), right=(3, 4))
    for note in described["notes"]:
        print(f"note: {note}")


def _rows(number: int, prompt: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    name = f"{number + 1}, weight {prompt['weight']:g}"
    for each in prompt["texts"]:
        first, last = each["steps"]
        steps = f"{first}-{last}" if first < last else str(first)
        for place, chunk in enumerate(each["chunks"]):
            named = (name, steps, f"{place + 1} of {len(each['chunks'])}")
            runs = [(weight, list(run)) for weight, run in groupby(chunk, _weight)]
            for weight, run in runs or [(1.0, [])]:
                text = "".join(token["token"].replace(_END, " ") for token in run).rstrip()
                yield (*named, str(len(run)), f"{weight:.4g}", text)


def _weight(token: dict[str, Any]) -> float:
    return token["weight"]


def _once(rows: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The rows without the first cells that the row above has too."""
    above: tuple[str, ...] = ("", "", "")
    for row in rows:
        same = next((i for i in range(3) if row[i] != above[i]), 3)
        yield (*[""] * same, *row[same:])
        above = row
