"""Checks of arguments; each raises an `InputError` that names the field."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Final, SupportsIndex, cast

import numpy as np

from latentrt.bundle.errors import InputError

_LONGEST: Final = 200
"""Characters of a value that a message shows."""
_NO_ITEMS: Final = (str, bytes, bytearray, Set, Mapping)


def shown(value: object) -> str:
    """A value as text for a message: its `repr`, cut if long, or its class if `repr` fails."""
    try:
        text = repr(value)
    except Exception:  # an integer of more than 4300 digits, a list too deep, a class of anyone's
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def integer(
    field: str, expected: str, value: object, low: int | None = None, high: int | None = None
) -> int:
    """An integer from `low` to `high` as Python's int; raises `InputError` for anything else.

    NumPy's integers are valid. Booleans, which are integers in Python, are not.
    """
    try:
        if isinstance(value, SupportsIndex) and not isinstance(value, bool):
            number = operator.index(value)
            if (low is None or low <= number) and (high is None or number <= high):
                return number
    except TypeError:
        pass  # an array of several integers has the method too
    raise InputError(field, expected, shown(value))


def flag(field: str, value: object) -> bool:
    """True or false; InputError for anything else, such as 1 or "no"."""
    if type(value) not in (bool, np.bool_):
        raise InputError(field, "True or False", shown(value))
    return bool(value)


def as_path(field: str, value: object) -> Path:
    """A path from a string or a path; InputError for anything else."""
    try:
        path = Path(cast("str", value))
    except TypeError:
        raise InputError(field, "a path", shown(value)) from None
    if "\0" in str(path):
        raise InputError(field, "a path without a null character", shown(value))
    return path


def items(value: object) -> tuple[object, ...] | None:
    """The values of a list, tuple, array or similar; None for text and anything without order."""
    if isinstance(value, _NO_ITEMS) or not isinstance(value, Iterable):
        return None
    try:
        return tuple(cast("Iterable[object]", value))
    except TypeError:  # an array without an axis
        return None
