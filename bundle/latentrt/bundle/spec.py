"""Names, dimensions and dtypes of an engine's inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from latentrt.bundle.errors import InputError
from latentrt.bundle.files import Field

Dim = int | str
"""A number, a symbol ("height"), or a symbol scaled by a number ("height*8", "height/8").

What is divided is rounded up, as a convolution of stride 2 halves a size.
"""

_DIM: Final = re.compile(r"([a-z_]+)(?:([*/])([0-9]{1,9}))?")
_LARGEST: Final = 2**31 - 1
_DTYPES: Final = ("float32", "float16")
"""Dtypes of an engine's inputs and outputs: NumPy has no bfloat16."""


def dim_size(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The size of a dimension, its symbol replaced by the number in `sizes`."""
    if isinstance(dim, int):
        return dim
    match = _DIM.fullmatch(dim)
    if match is None or match[1] not in sizes:
        raise InputError("dim", f"one of {', '.join(sorted(sizes))}", repr(dim))
    size = sizes[match[1]]
    if match[2] is None:
        return size
    factor = int(match[3])
    return size * factor if match[2] == "*" else -(-size // factor)


def dim_symbols(dims: tuple[Dim, ...]) -> frozenset[str]:
    """The symbols that occur in dimensions."""
    found = (_DIM.fullmatch(d) for d in dims if isinstance(d, str))
    return frozenset(m[1] for m in found if m is not None)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named array of a component: `dims` are numbers or symbols, `dtype` NumPy's name."""

    name: str
    dims: tuple[Dim, ...]
    dtype: str = "float32"

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape when every symbol has a size."""
        return tuple(dim_size(d, sizes) for d in self.dims)

    def fixed(self, sizes: Mapping[str, int]) -> TensorSpec:
        """The same array with numbers only."""
        return TensorSpec(self.name, self.shape(sizes), self.dtype)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"name": self.name, "dims": list(self.dims), "dtype": self.dtype}

    @staticmethod
    def from_field(field: Field) -> TensorSpec:
        """From `to_json`; raises `ValueError` naming what is malformed."""
        dims = tuple(_dim(item) for item in field.at("dims").items())
        return TensorSpec(field.at("name").text(), dims, field.at("dtype").one_of(_DTYPES))

    def __str__(self) -> str:
        return f"({', '.join(str(d) for d in self.dims)}) {self.dtype}"


def _dim(field: Field) -> Dim:
    if not isinstance(field.value, str):
        return field.whole(1, _LARGEST)
    match = _DIM.fullmatch(field.value)
    if match is None or not 0 < int(match[3] or 1) <= _LARGEST:
        raise field.wrong("a number or a symbol such as height, height*8 or height/8")
    return field.value
