"""The user's cache folder: compiled engines, and the locks of exports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from latentrt.bundle.errors import InputError, Unwritable

VARIABLE: Final = "LATENTRT_CACHE"


def cache_folder(path: Path | str | None = None) -> Path:
    """A path, or else $LATENTRT_CACHE, or else this user's own cache folder.

    The path is absolute and need not exist. "~" stands for the home folder, and spaces around the
    variable's value are removed. Raises `InputError` if no home folder is known, naming the
    variable, and for a path with a NUL.
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
    """The error for a cache folder that cannot be written; it names the variable for another."""
    return Unwritable("cache", f"a folder that can be written (${VARIABLE})", f"{path} ({problem})")


def _own() -> str:
    from platformdirs import user_cache_dir  # only where it is asked for: imports take time

    try:
        return user_cache_dir("latentrt")
    except RuntimeError:  # no home folder
        return "~/.cache/latentrt"
