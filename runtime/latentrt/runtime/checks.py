"""What a field of a request may hold, and what a component may give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsFloat, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is an integer and no boolean, which Python calls one."""
    return isinstance(value, int) and not isinstance(value, bool)


def text(field: str, value: object) -> str:
    """A string that is text; else InputError for `field`.

    A lone surrogate is half of a character, which no encoding has: JSON can hold one, and Python
    makes them of bytes on a command line that are not UTF-8.
    """
    if not isinstance(value, str):
        raise InputError(field, "a string", repr(value))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        got = f"{value[error.start]!r} at character {error.start}"
        raise InputError(field, "text, without bytes or characters outside Unicode", got) from None
    return value


def number(field: str, expected: str, value: object) -> float:
    """A number as a Python float; else InputError for `field`, as for booleans and strings."""
    if isinstance(value, SupportsFloat) and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass  # an array of several numbers has the method too
    raise InputError(field, expected, repr(value))


def pair(value: object) -> tuple[object, object] | None:
    """The two values of a tuple or list of two; None for anything else."""
    if not isinstance(value, tuple | list):
        return None
    values = cast("Sequence[object]", value)
    return (values[0], values[1]) if len(values) == 2 else None


def finite_numbers(
    field: str, values: Sequence[float], count: int | None = None
) -> tuple[float, ...]:
    """A tuple of finite floats, `count` of them if that is given; else InputError for `field`."""
    try:
        numbers = tuple(number(field, "numbers", value) for value in values)
    except TypeError:
        raise InputError(field, "numbers", repr(values)) from None
    if count not in (None, len(numbers)) or not all(map(math.isfinite, numbers)):
        raise InputError(field, f"{count or 'finite'} numbers", repr(values))
    return numbers


def all_finite(array: NDArray[Any]) -> bool:
    """Whether no number of an array is NaN or infinite."""
    # Right after an engine's call, with cold caches, `.all()` takes twice as long.
    return b"\0" not in np.isfinite(array).tobytes()
