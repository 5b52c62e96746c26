"""The size of a picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.checks import integer, shown
from latentrt.bundle.errors import InputError

LARGEST: Final = 16384
"""Pixels of a side."""
_EXPECTED: Final = f"an integer from 1 to {LARGEST}"


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of a picture in pixels."""

    width: int
    height: int

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = integer(f"size {name}", _EXPECTED, getattr(self, name), 1, LARGEST)
            object.__setattr__(self, name, value)

    @staticmethod
    def within(pixels: NDArray[Any], factor: int) -> Size:
        """The size of a picture [h, w, ...], rounded down to multiples of `factor`, never to 0."""
        height, width = (max(n // factor, 1) * factor for n in pixels.shape[:2])
        return Size(width, height)

    @staticmethod
    def parse(text: str) -> Size:
        """From e.g. "768x512", width first; raises `InputError` for anything else."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("size", "WIDTHxHEIGHT such as 512x512", shown(text))
        match = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text.strip())
        if match is None:
            raise InputError("size", "WIDTHxHEIGHT such as 512x512", shown(text))
        return Size(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"
