"""A request's prompts as texts in chunks, each with the steps that it holds for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from latentrt.bundle.errors import InputError
from latentrt.runtime.prompts.chunks import ChunkedText
from latentrt.runtime.prompts.schedule import Changes, Steps, changes
from latentrt.runtime.prompts.syntax import PLAIN

if TYPE_CHECKING:
    from latentrt.runtime.request import Request

MOST_CHARACTERS: Final = 20_000
"""The most characters of a prompt that is not plain; a full one of 32 chunks has about 12,000."""
_SHOWN: Final = 80
"""Characters of a prompt's lost end that a note has room for."""


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """One prompt: the `field` of the request that it is in, its weight, and its texts."""

    field: str
    weight: float
    texts: Changes[ChunkedText]

    @property
    def chunks(self) -> int:
        """The most chunks of its texts."""
        return max(text.count for _, text in self.texts)

    def notes(self, length: int) -> Iterator[str]:
        """What was cut from it; a chunk has `length` tokens."""
        for text in dict.fromkeys(text.cut for _, text in self.texts if text.cut):
            shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
            yield f"{self.field}: cut after {length - 2} tokens; left out: {shown!r}"


def positive_prompts(request: Request) -> list[tuple[str, str, float]]:
    """The prompts of a request: the field that each is in, its text and its weight."""
    own = len(request.prompts) - len(request.composed)
    return [
        ("prompt" if place < own else f"composed[{place - own}]", *each)
        for place, each in enumerate(request.prompts)
    ]


def read_prompt(
    field: str,
    prompt: str,
    request: Request,
    steps: Steps,
    chunk: Callable[[str, str], ChunkedText],
    weight: float = 1.0,
) -> ReadPrompt:
    """A prompt of a request, whose texts change within `steps`.

    `chunk` gives the chunks of a text of a field. Raises `InputError` for a prompt that is too
    long.
    """
    if request.syntax == PLAIN:
        return ReadPrompt(field, weight, ((steps.count - steps.taken, chunk(field, prompt)),))
    if len(prompt) > MOST_CHARACTERS:
        expected = f"at most {MOST_CHARACTERS} characters; syntax 'plain' cuts it"
        raise InputError(field, expected, len(prompt))
    texts = changes(prompt, steps)
    known: dict[str, ChunkedText] = {}
    for _, text in texts:
        if text not in known:
            known[text] = chunk(field, text)
    return ReadPrompt(field, weight, tuple((last, known[text]) for last, text in texts))
