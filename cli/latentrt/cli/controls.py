"""ControlNets of a command line, and those of a picture that is drawn again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime.checks import json_object
from latentrt.runtime.control import BALANCED, Control, named_controls
from latentrt.runtime.edges import canny
from latentrt.runtime.pixels import pixels_sha256, read_pixels

FORM: Final = "CONTROLNET=IMAGE[:SCALE[:START:END]]"
_NUMBERS: Final = ("scale", "start", "end")


@dataclass(frozen=True, slots=True)
class GivenControl:
    """A control that was asked for: `path` is its picture, `stated` the numbers that were given."""

    control: Control
    path: Path
    stated: frozenset[str]


def given_controls(
    texts: Sequence[str], mode: str | None, edges: tuple[float, float] | None
) -> list[GivenControl]:
    """The controls of `--control`, all of one mode; with `edges` of their pictures' edges.

    `edges` are Canny's thresholds. Raises `InputError` for a text of another form, `FileError` for
    a file that is no picture.
    """
    if not texts:
        for option, value in (("control-mode", mode), ("canny", edges)):
            if value is not None:
                raise InputError(option, "none without --control", value)
    return [_given(text, mode, edges) for text in texts]


def recorded_controls(
    value: dict[str, Any], source: Path, given: Sequence[GivenControl]
) -> list[Control]:
    """The controls of a picture that is drawn again; they are taken out of its JSON.

    Those given are the picture's where they are of the same ControlNet and picture; of their
    numbers those stay that were not stated. Others take the place of the picture's. Raises
    `InputError` where the picture's are not given.
    """
    recorded = value.pop("controls", [])
    if not isinstance(recorded, list):
        raise FileError(source, "holds a request whose controls are malformed")
    entries = [json_object("controls", entry) for entry in cast("list[object]", recorded)]
    if entries and not given:
        name, sha256 = (shown(entries[0].get(key)) for key in ("name", "sha256"))
        raise InputError("control", f"the picture's {name} (SHA-256 {sha256}) as {FORM}", "none")
    asked = [each.control for each in given]
    keys = [(each.sha256(), pixels_sha256(each.image)) for each in asked]
    before = {(entry.get("sha256"), entry.get("image")): entry for entry in entries}
    if set(keys) != set(before):
        print("latentrt: note: other ControlNets than the picture's", file=sys.stderr)
    return [
        _again(each, before[key], asked) if key in before else each.control
        for each, key in zip(given, keys, strict=True)
    ]


def _again(each: GivenControl, entry: dict[str, Any], asked: Sequence[Control]) -> Control:
    stated = {name: getattr(each.control, name) for name in each.stated}
    (found,) = named_controls([{**entry, **stated}], asked)
    return found


def _given(text: str, mode: str | None, edges: tuple[float, float] | None) -> GivenControl:
    model, equals, rest = text.partition("=")
    if not (model and equals and rest):
        raise InputError("control", FORM, repr(text))
    path, numbers = _numbers(rest)
    picture = read_pixels(path)
    if edges is not None:
        picture = canny(picture, *edges)
    control = Control(_existing(model), picture, **numbers, mode=mode or BALANCED)
    stated = frozenset(numbers) | ({"mode"} if mode is not None else set[str]())
    return GivenControl(control, path, stated)


def _existing(model: str) -> Path | str:
    """The ControlNet's path; a missing one is named before anything is done."""
    if Path(model).suffix and not Path(model).exists():
        raise FileError(Path(model), "no such ControlNet")
    return model


def _numbers(text: str) -> tuple[Path, dict[str, float]]:
    """A picture's path, and the numbers behind it. A path may have colons."""
    words = text.split(":")
    for count in range(len(words)):
        place = len(words) - count
        path = Path(":".join(words[:place]))
        if not path.is_file():
            continue
        try:
            found = [float(word) for word in words[place:]]
        except ValueError:
            found = [0.0, 0.0]
        if len(found) not in (0, 1, 3):
            raise InputError("control", FORM, repr(text))
        return path, dict(zip(_NUMBERS, found, strict=False))
    raise FileError(Path(words[0]), "no such file")
