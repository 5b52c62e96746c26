"""What a field of a request may hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latentrt.bundle.errors import InputError


def is_integer(value: object) -> bool:
    """Whether a value is an integer and no boolean, which Python calls one."""
    return isinstance(value, int) and not isinstance(value, bool)


def finite_numbers(
    field: str, values: Sequence[float], count: int | None = None
) -> tuple[float, ...]:
    """A tuple of finite floats, `count` of them if that is given; else InputError for `field`."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InputError(field, "numbers", repr(values)) from None
    if count not in (None, len(numbers)) or not all(map(math.isfinite, numbers)):
        raise InputError(field, f"{count or 'finite'} numbers", repr(values))
    return numbers
