"""Reading files from outside: only regular files, and JSON with errors that name the field."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from latentrt.bundle.errors import BundleError

LARGEST: Final = 64 << 20
"""Largest file, in bytes, that is read into memory whole."""
_SHOWN: Final = 60


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading; raises `OSError` with the path for a folder, device or pipe.

    It does not wait for the other end of a pipe.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path) -> bytes:
    """The content of a file of at most `LARGEST` bytes; raises `OSError` with the path."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise OSError(errno.EFBIG, f"has {size} bytes, {LARGEST} at most are read", str(path))
        return file.read(LARGEST)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds; raises `BundleError` naming the file."""
    try:
        value: object = json.loads(read_file(path).decode(), object_pairs_hook=unique)
    except OSError as error:
        raise BundleError(path, f"cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise BundleError(path, "is malformed: it is nested too deeply") from error
    except ValueError as error:
        raise BundleError(path, f"is malformed: {error}") from error
    if not isinstance(value, dict):
        raise BundleError(path, f"is malformed: expected a JSON object, got {_shown(value)}")
    return cast("dict[str, Any]", value)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A hook for `json.loads` that makes an object; raises `ValueError` for a key given twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} occurs twice")
        found[name] = value
    return found


@dataclass(frozen=True, slots=True)
class Field:
    """A value of a JSON document, and its name there, such as "components.unet.graph".

    What is read from it raises `ValueError` saying which field is wrong, what would do, and what
    is there.
    """

    name: str
    value: object

    def wrong(self, expected: str) -> ValueError:
        """The error that this is not what was expected."""
        return ValueError(f"{self.name}: expected {expected}, got {_shown(self.value)}")

    def members(self) -> dict[str, Field]:
        """The fields of an object."""
        value = self.value
        if not isinstance(value, dict):
            raise self.wrong("an object")
        members = cast("dict[str, object]", value)
        return {key: Field(self._below(key), member) for key, member in members.items()}

    def at(self, key: str) -> Field:
        """A field of an object."""
        members = self.members()
        if key not in members:
            raise ValueError(f"{self._below(key)} is missing")
        return members[key]

    def items(self) -> list[Field]:
        """The values of a list."""
        value = self.value
        if not isinstance(value, list):
            raise self.wrong("a list")
        members = cast("list[object]", value)
        return [Field(f"{self.name}[{i}]", member) for i, member in enumerate(members)]

    def text(self) -> str:
        """A string of Unicode, so without half of a surrogate pair."""
        if not isinstance(self.value, str) or not is_text(self.value):
            raise self.wrong("text")
        return self.value

    def one_of(self, names: Collection[str]) -> str:
        """One of these strings."""
        if self.value not in names:
            raise self.wrong(f"one of {', '.join(names)}")
        return str(self.value)

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def whole(self, least: int, most: int) -> int:
        """A whole number in a range, both ends included."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(f"a whole number from {least} to {most}")
        return value

    def number(self) -> float:
        """A finite number."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong("a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.wrong("a finite number")
        return number

    def divisor(self) -> float:
        """A finite number that is not 0."""
        number = self.number()
        if number == 0:
            raise self.wrong("a number other than 0")
        return number

    def _below(self, key: str) -> str:
        shown = key if key.isprintable() and len(key) <= _SHOWN else _shown(key)
        return f"{self.name}.{shown}" if self.name else shown


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "a value that is nested too deeply"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
