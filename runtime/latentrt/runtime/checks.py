"""What a field of a request may hold, and what a component may give."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import items, shown
from latentrt.bundle.errors import InputError

_Option = TypeVar("_Option")
_NO_NUMBERS: Final = (bool, np.bool_, np.complexfloating)
"""Kinds that have the method `__float__` all the same."""


def text(field: str, value: object) -> str:
    """A string that is text; else InputError for `field`.

    A lone surrogate is half of a character, which no encoding has: JSON can hold one, and Python
    makes them of bytes on a command line that are not UTF-8.
    """
    if not isinstance(value, str):
        raise InputError(field, "a string", shown(value))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        got = f"{value[error.start]!r} at character {error.start}"
        raise InputError(field, "text, without bytes or characters outside Unicode", got) from None
    return value


def number(
    field: str, expected: str, value: object, low: float = -math.inf, high: float = math.inf
) -> float:
    """A number from `low` to `high` as Python's float, never NaN; InputError for anything else.

    NumPy's numbers are taken. Booleans, complex numbers and arrays of several are not.
    """
    found, refused = math.nan, isinstance(value, _NO_NUMBERS)
    if hasattr(value, "__float__") and not refused:
        # The method may be anyone's.
        with contextlib.suppress(Exception):
            found = float(cast("Any", value)) if np.ndim(cast("Any", value)) == 0 else math.nan
    if low <= found <= high:
        return found
    raise InputError(field, expected, shown(value))


def one_of(field: str, value: object, options: Sequence[_Option]) -> _Option:
    """The one of the options that a value is; InputError for anything else."""
    for each in options:
        if type(value) is type(each) and value == each:
            return each
    raise InputError(field, f"one of {', '.join(map(str, options))}", shown(value))


def pair(value: object) -> tuple[object, object] | None:
    """The two values of a tuple, list or array of two; None for anything else."""
    values = items(value)
    return (values[0], values[1]) if values is not None and len(values) == 2 else None


def finite_numbers(field: str, values: object, count: int | None = None) -> tuple[float, ...]:
    """A tuple of finite floats, `count` of them if that is given; else InputError for `field`."""
    expected = f"{count or 'finite'} numbers"
    given = items(values)
    if given is None or count not in (None, len(given)):
        raise InputError(field, expected, shown(values))
    largest = sys.float_info.max
    return tuple(number(field, expected, value, -largest, largest) for value in given)


def json_object(field: str, value: object, keys: Collection[str] | None = None) -> dict[str, Any]:
    """A JSON object, copied, with no other keys than these; else InputError for `field`."""
    if not isinstance(value, Mapping):
        raise InputError(field, "a JSON object", shown(value))
    found = dict(cast("Mapping[Any, Any]", value))
    unknown = [key for key in found if keys is not None and key not in keys]
    if keys is not None and unknown:
        expected = f"keys among {', '.join(keys)} (a newer latentrt may know more)"
        raise InputError(field, expected, shown(unknown[0]))
    return found


def all_finite(array: NDArray[Any]) -> bool:
    """Whether no number of an array is NaN or infinite."""
    # Right after an engine's call, with cold caches, `.all()` takes twice as long.
    return b"\0" not in np.isfinite(array).tobytes()
