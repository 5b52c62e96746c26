"""What TensorRT measured while it built, kept from one build to the next.

A hint: without it a build takes longer. The plan is verified in any case.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from latentrt.bundle.cache_folder import unwritable
from latentrt.bundle.errors import Unwritable
from latentrt.bundle.files import read_file
from latentrt.bundle.publish import write_file

_FOLDER: Final = "timings"


def timings_folder(cache: Path) -> Path:
    """Where they lie in a cache: beside the engines."""
    return cache / _FOLDER


def recall(path: Path) -> bytes:
    """What was written last; nothing if nothing was."""
    try:
        return read_file(path)
    except OSError:
        return b""


def keep(path: Path, content: bytes) -> None:
    """Replace a file whole; of several builds at once the last one's stays."""
    with contextlib.suppress(OSError, Unwritable):  # a plan that is built is not lost for a hint
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, content)


def kept(cache: Path) -> dict[str, int]:
    """The bytes of every file of timings in a cache, by name; what a killed build left is one."""
    found: dict[str, int] = {}
    for path in sorted(timings_folder(cache).glob("*")):
        with contextlib.suppress(FileNotFoundError):  # a build that ends just now renames its own
            found[path.name] = path.stat().st_size
    return found


def forget(cache: Path) -> dict[str, int]:
    """Delete them all; returns what went."""
    found = kept(cache)
    for name in found:
        try:
            (timings_folder(cache) / name).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(timings_folder(cache) / name, error.strerror or error) from error
    return found
