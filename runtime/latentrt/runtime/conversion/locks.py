"""A lock on a folder of the cache that one process makes while others wait."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from latentrt.bundle.cache_folder import cache_folder, unwritable


@contextlib.contextmanager
def locked(place: Path) -> Generator[None]:
    """Hold the lock of a folder; raises `Unwritable` if the cache cannot be written."""
    from filelock import FileLock  # only where something may be made

    locks = cache_folder() / "locks"
    lock = FileLock(locks / f"{place.parent.name}-{place.name}.lock")
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise unwritable(cache_folder(), error.strerror or error) from error
    try:
        yield
    finally:
        lock.release()
