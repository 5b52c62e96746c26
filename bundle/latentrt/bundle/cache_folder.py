"""Where this user keeps what can be made again: compiled engines, and the locks of exports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from latentrt.bundle.errors import InputError, Unwritable

VARIABLE: Final = "LATENTRT_CACHE"


def cache_folder(path: Path | str | None = None) -> Path:
    """A path, or else $LATENTRT_CACHE, or else this user's own cache folder.

    It is absolute, and perhaps not there; "~" is a home folder, and spaces around what the variable
    says are none of it. Raises `InputError` naming the variable where no home folder is known, and
    for a path with a NUL.
    """
    named = os.environ.get(VARIABLE, "").strip() if path is None else os.fspath(path)
    found = os.path.expanduser(named) if named else _own()
    if found.startswith("~"):
        expected = f"a folder (${VARIABLE}) that needs no home folder, as none is known"
        raise InputError("cache", expected, found)
    if "\0" in found:
        raise InputError("cache", "a path of this system", repr(found))
    return Path(os.path.abspath(found))


def unwritable(path: Path, problem: object) -> Unwritable:
    """That a place in the cache folder cannot be written, and which variable names another."""
    return Unwritable("cache", f"a folder that can be written (${VARIABLE})", f"{path} ({problem})")


def _own() -> str:
    from platformdirs import user_cache_dir  # only where it is asked for: imports take time

    try:
        return user_cache_dir("latentrt")
    except RuntimeError:  # no home folder
        return "~/.cache/latentrt"
