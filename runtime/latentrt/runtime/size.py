"""The size of a picture."""

from __future__ import annotations

import re
from dataclasses import dataclass

from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import is_integer


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of a picture in pixels."""

    width: int
    height: int

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("height", self.height)):
            if not is_integer(value) or not 1 <= value <= 16384:
                raise InputError(f"size {name}", "an integer from 1 to 16384", repr(value))

    @staticmethod
    def parse(text: str) -> Size:
        """From e.g. "768x512", width first; raises `InputError` for anything else."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("size", "WIDTHxHEIGHT such as 512x512", repr(text))
        match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
        if match is None:
            raise InputError("size", "WIDTHxHEIGHT such as 512x512", repr(text))
        return Size(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"
