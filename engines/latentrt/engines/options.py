"""Options of a backend: a frozen dataclass of its own, whose fields say what they do.

A field's metadata has `help`, one line for users. Where `keyed` is False, the option is not in
a cache entry's key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, cast

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError

_WORDS: Final[Mapping[str, bool]] = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a backend that has none."""


def option(default: Any, description: str, *, keyed: bool = True) -> Any:
    """A field of an options class, with one line that says what it does."""
    return field(default=default, metadata={"help": description, "keyed": keyed})


def names_of(kind: type[Any]) -> tuple[str, ...]:
    """The names of the options of a class."""
    return tuple(each.name for each in fields(kind))


def described(kind: type[Any]) -> dict[str, str]:
    """What each option of a class does, by its name."""
    return {each.name: each.metadata["help"] for each in fields(kind)}


def parsed(engine: str, kind: type[Any], given: Mapping[str, object]) -> Any:
    """Options of a class from values by name.

    Raises `InputError` for a name that the engine has not, or naming the option whose value is
    wrong.
    """
    for name in given:
        if name not in names_of(kind):
            raise unknown_option(name, {engine: kind})
    return kind(**given)


def checked(given: object) -> Mapping[str, object]:
    """A mapping of names to values; raises `InputError` for anything else."""
    if not isinstance(given, Mapping):
        raise InputError("options", "a mapping, such as {'threads': 4}", shown(given))
    for name in cast("Mapping[object, object]", given):
        if not isinstance(name, str):
            raise InputError("options", "names of options", shown(name))
    return cast("Mapping[str, object]", given)


def unknown_option(name: str, engines: Mapping[str, type[Any]]) -> InputError:
    """The error for an option that none of these engines has."""
    known = [", ".join(names_of(kind)) or "none" for kind in engines.values()]
    lines = [
        f"engine {engine} has no option {name!r}; it has {options}"
        for engine, options in zip(engines, known, strict=True)
    ]
    error = InputError("options", f"one of {', '.join(known)}", repr(name))
    error.args = ("; ".join(lines),)
    return error


def assigned(options: Any) -> Iterator[str]:
    """The options whose value is not the default, as NAME=VALUE."""
    for each in fields(options):
        value: object = getattr(options, each.name)
        if value != each.default:
            yield f"{each.name}={str(value).lower() if isinstance(value, bool) else value}"


def key_fields(options: Any) -> dict[str, str]:
    """The options as fields of a cache entry's key."""
    keyed = [each.name for each in fields(options) if each.metadata["keyed"]]
    return {name: str(getattr(options, name)) for name in sorted(keyed)}


def value_of(text: str) -> object:
    """The integer or the truth value that a text is; else the text."""
    if re.fullmatch(r"-?[0-9]{1,9}", text):
        return int(text)
    return _WORDS.get(text.lower(), text)
