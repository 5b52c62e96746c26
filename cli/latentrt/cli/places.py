"""Where `latentrt generate` writes pictures."""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from latentrt.bundle.errors import InputError
from latentrt.bundle.publish import write_file
from latentrt.cli.streams import write_bytes
from latentrt.runtime import Request, Result
from latentrt.runtime.image import check_format, format_of

OUTPUT: Final = Path("out.png")
"""The file without `-o`; numbered, so that none is replaced."""

STDOUT: Final = Path("-")

WRITABLE: Final = "a place that can be written"


class Place(ABC):
    """Where the pictures of a request go, one after the other."""

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """Where the files are; None: there are none."""

    @abstractmethod
    def check(self) -> None:
        """Raise `InputError` if nothing can be written there."""

    @abstractmethod
    def takes(self, path: Path) -> bool:
        """Whether a picture may be written to this path."""

    @abstractmethod
    def write(self, index: int, result: Result) -> Path:
        """Write picture `index` of the result whole; gives its path. Raises `InputError`."""


@dataclass(frozen=True, slots=True)
class Named(Place):
    """The file of `-o`, or files of that name with a number; existing files are replaced."""

    path: Path
    count: int

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def _paths(self) -> Sequence[Path]:
        if self.count == 1:
            return (self.path,)
        return [_numbered(self.path, index) for index in range(self.count)]

    def check(self) -> None:
        """Every file, since each may be a folder."""
        for path in self._paths:
            check_writable("output", path)

    def takes(self, path: Path) -> bool:
        return any(same(path, own) for own in self._paths)

    def write(self, index: int, result: Result) -> Path:
        write_file(self._paths[index], result.encode(index, format_of(self.path)))
        return self._paths[index]


@dataclass(frozen=True, slots=True)
class Free(Place):
    """`path`, or the next free number; nothing is replaced."""

    path: Path
    count: int

    @property
    def folder(self) -> Path:
        return self.path.parent

    def check(self) -> None:
        check_writable("output", self.path.with_name(f"{self.path.stem}-0{self.path.suffix}"))

    def takes(self, path: Path) -> bool:
        return same(path.parent, self.path.parent) and self._number(path.name) is not None

    def write(self, index: int, result: Result) -> Path:
        while True:
            path = self._next()
            try:
                # Creating the file reserves the name, also when several processes draw here.
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise InputError("output", WRITABLE, f"{path} ({error.strerror})") from error
        try:
            write_file(path, result.encode(index, format_of(path)))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _next(self) -> Path:
        names = os.listdir(self.path.parent)
        numbers = [n for name in names if (n := self._number(name)) is not None]
        if self.count == 1 and not os.path.lexists(self.path):
            return self.path
        first = 0 if self.count > 1 else 1
        return _numbered(self.path, max([first - 1, *numbers]) + 1)

    def _number(self, name: str) -> int | None:
        """The number in a name of ours, -1 for one without; None for any other name."""
        stem, suffix = re.escape(self.path.stem), re.escape(self.path.suffix)
        found = re.fullmatch(rf"{stem}(?:-(\d{{1,9}}))?{suffix}", name, re.IGNORECASE)
        return None if found is None else int(found[1] or -1)


@dataclass(frozen=True, slots=True)
class Stdout(Place):
    """One PNG on standard output, and nothing else."""

    @property
    def folder(self) -> None:
        return None

    def check(self) -> None:
        stream = sys.stdout
        if stream is None or stream.isatty():  # pyright: ignore[reportUnnecessaryComparison]
            got = "a terminal" if stream else "a closed one"
            raise InputError("output", "standard output to be a file or a pipe", got)

    def takes(self, path: Path) -> bool:
        return False

    def write(self, index: int, result: Result) -> Path:
        write_bytes(result.png(index))
        return STDOUT


def place(output: Path | None, request: Request) -> Place:
    """The place of `-o` for a request's pictures; raises `InputError` if it cannot hold them."""
    count = request.num_images
    if output is None:
        return Free(OUTPUT, count)
    if output == STDOUT:
        if count > 1:
            raise InputError("output", "a file for several pictures", "-, standard output")
        return Stdout()
    check_format(format_of(output), request)
    return Named(output, count)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def check_writable(option: str, path: Path) -> None:
    """Make the folder of a file; raises `InputError` if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError(option, "a file", f"the folder {path}")
        if path.exists() and not path.is_file():
            raise InputError(option, "a file", f"the device {path}")
        # Permissions alone are not enough: the filesystem may be read-only.
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(option, WRITABLE, f"{path} ({error.strerror})") from error


def check_apart(
    pictures: Place, noise: Path | None, bundle: Path, read: Mapping[str, Path | None]
) -> None:
    """Raise `InputError` if a file would replace another one of the same command.

    `noise` is written beside the pictures; `read` are the files that options name.
    """
    if noise is not None and pictures.takes(noise):
        raise InputError("save-latents", "another file than a picture's", noise)
    for option, path in read.items():
        if path is None:
            continue
        if pictures.takes(path):
            raise InputError("output", f"another file than the one of --{option}", path)
        if noise is not None and same(noise, path):
            raise InputError("save-latents", f"another file than the one of --{option}", path)
    for option, path in (("output", pictures.folder), ("save-latents", noise and noise.parent)):
        if path is not None and _within(path, bundle):
            raise InputError(option, "a place outside the bundle", path)


def same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, through links and however they are spelt."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return _real(one) == _real(other)


def _within(folder: Path, bundle: Path) -> bool:
    real, root = _real(folder), _real(bundle)
    return real == root or real.startswith(os.path.join(root, ""))


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))
