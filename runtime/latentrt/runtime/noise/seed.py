"""What counts as a seed, the same for every generator."""

from __future__ import annotations

import operator

from latentrt.bundle.errors import InputError

__all__ = ["seed_bits"]


def seed_bits(seed: int) -> int:
    """The 64 bits of a seed, from 0 to 2**64 - 1; a negative one wraps around.

    As in `torch.Generator.manual_seed`, a seed is an integer from -2**63 to 2**64 - 1; anything
    else is an InputError.
    """
    expected = "an integer from -2**63 to 2**64 - 1"
    if isinstance(seed, bool):
        raise InputError("seed", expected, seed)
    try:
        number = operator.index(seed)
    except TypeError:
        raise InputError("seed", expected, repr(seed)) from None
    if not -(2**63) <= number < 2**64:
        raise InputError("seed", expected, number)
    return number % 2**64
