"""Prompts that change with the step: `[a:b:0.5]`, `[b:10]`, `[a::0.5]`, and in turn `[a|b]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

_TOKEN: Final = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\")
_WHEN: Final = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")

_Found = TypeVar("_Found")
Changes = tuple[tuple[int, _Found], ...]
"""What holds up to and with a step, which counts from 1; the last step is that of the run."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that a prompt changes within: `count` of them, of which `taken` are behind us.

    `earlier` are the steps of the pass before, such as the first of a hires fix.
    """

    count: int
    taken: int = 0
    earlier: int | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """`before`, and after a step `after`. `when` is that step, or of all steps a share."""

    before: Sequence[Item]
    after: Sequence[Item]
    when: float
    share: bool

    def last(self, steps: Steps) -> int:
        """The last step of `before`, from 0 to `steps.count`; see `changes`."""
        if self.share:
            wanted = (self.when - (steps.earlier is not None)) * steps.count
        else:
            wanted = self.when - (steps.earlier or 0)
        return int(min(max(wanted, 0), steps.count))


@dataclass(frozen=True, slots=True)
class Turns:
    """One of `options` at each step, in turn."""

    options: Sequence[Sequence[Item]]


Item = str | Switch | Turns


@dataclass(slots=True)
class _Bracket:
    """An open bracket: where its items begin, and where it has colons and bars of its own."""

    kind: str
    first: int
    colons: list[int] = field(default_factory=list[int])
    bars: list[int] = field(default_factory=list[int])


def changes(prompt: str, steps: Steps) -> Changes[str]:
    """The texts of a prompt, each with the last step that it holds for, of those not taken yet.

    A number with a point is a share of the steps, one without counts steps. A second pass has the
    numbers beyond those of the first: 1.5 is the middle of the second.

    Source: the rules of AUTOMATIC1111's web UI.
    """
    items = parse(prompt)
    lasts = {steps.count}
    for each in _nodes(items):
        if isinstance(each, Turns):
            lasts.update(range(1, steps.count + 1))
        else:
            lasts.add(each.last(steps))
    found: list[tuple[int, str]] = []
    for last in sorted(each for each in lasts if each > steps.taken):
        text = "".join(_texts(items, last, steps))
        if found and found[-1][1] == text:
            found.pop()
        found.append((last - steps.taken, text))
    return tuple(found)


def parse(prompt: str) -> Sequence[Item]:
    """The items of a prompt, in time linear in its length.

    It accepts every text. Round brackets, and square ones without a colon or a bar, are for
    `emphasis` and stay as they are. A bracket without a partner is text, and so is every bracket
    around it.
    """
    items: list[Item] = []
    opened: list[_Bracket] = []
    for token in _TOKEN.findall(prompt):
        if token in "[(":
            opened.append(_Bracket(token, len(items)))
        elif token in "])" and opened and opened[-1].kind == _OPENS[token]:
            bracket = opened.pop()
            if token == "]" and _replaced(items, bracket):
                continue
            if len(bracket.colons) > (token == ")"):
                opened.clear()
        elif token in "])":
            opened.clear()
        elif opened and token in ":|":
            (opened[-1].colons if token == ":" else opened[-1].bars).append(len(items))
        items.append(token)
    return items


_OPENS: Final = {"]": "[", ")": "("}


def _replaced(items: list[Item], bracket: _Bracket) -> bool:
    """Put a switch or turns in the place of a square bracket's items, if it is one."""
    first, colons = bracket.first, bracket.colons
    node: Switch | Turns | None = None
    if not colons and bracket.bars:
        node = Turns(_split(items, first, bracket.bars))
    elif len(colons) in (1, 2):
        after = items[colons[-1] + 1 :]
        match = _WHEN.fullmatch("".join(text for text in after if isinstance(text, str)))
        if match and all(isinstance(each, str) for each in after):
            *before, changed = _split(items, first, colons)[:-1]
            node = Switch(before[0] if before else (), changed, float(match[1]), "." in match[1])
    if node is not None:
        items[first:] = [node]
    return node is not None


def _split(items: list[Item], first: int, places: Sequence[int]) -> list[Sequence[Item]]:
    """What is between an opening bracket, separators, and the end."""
    ends = [*places, len(items)]
    begins = [first + 1, *(place + 1 for place in places)]
    return [items[begin:end] for begin, end in zip(begins, ends, strict=True)]


# Brackets nest as deep as a prompt is long, so nothing here calls itself.


def _nodes(items: Sequence[Item]) -> Iterator[Switch | Turns]:
    waiting = [items]
    while waiting:
        for each in waiting.pop():
            if isinstance(each, Switch):
                waiting += (each.before, each.after)
            elif isinstance(each, Turns):
                waiting += each.options
            else:
                continue
            yield each


def _texts(items: Sequence[Item], step: int, steps: Steps) -> Iterator[str]:
    waiting = [iter(items)]
    while waiting:
        each = next(waiting[-1], None)
        if each is None:
            waiting.pop()
        elif isinstance(each, str):
            yield each
        elif isinstance(each, Switch):
            chosen = each.before if step <= each.last(steps) else each.after
            waiting.append(iter(chosen))
        else:
            waiting.append(iter(each.options[(step - 1) % len(each.options)]))
