"""A folder or file appears whole or not at all.

What is to be published is made in a hidden neighbour of its destination (so on the same
filesystem), flushed to disk, and renamed into place. Whoever is killed on the way leaves the
destination as it was (or, between the two renames of a replacement, no destination) and a hidden
folder that the next publisher of the same destination removes.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

from latentrt.bundle.cache_folder import VARIABLE, cache_folder
from latentrt.bundle.errors import BundleError, InputError

_PARTIAL: Final = ".partial-"
_REPLACED: Final = ".replaced-"


@contextlib.contextmanager
def publishing(
    destination: Path, *, force: bool = False, locks: Path | None = None
) -> Generator[Path]:
    """Give an empty folder to fill; leaving the block without an error makes it `destination`.

    `locks` is the folder that has the lock, by default the cache folder's. Raises `InputError` if
    the destination exists and `force` is false, or if its parent or the folder of the lock cannot
    be written; `BundleError` if another process is publishing the same destination.
    """
    destination = Path(os.path.abspath(destination))
    _check_free(destination, force)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(destination, error) from error
    with _exclusive(destination, cache_folder() / "locks" if locks is None else locks):
        _remove_leftovers(destination)
        try:
            partial = Path(
                tempfile.mkdtemp(prefix=f".{destination.name}{_PARTIAL}", dir=destination.parent)
            )
        except OSError as error:
            raise _unwritable(destination, error) from error
        try:
            yield partial
            partial.chmod(0o777 & ~_umask())
            _flush(partial)
            _check_free(destination, force)
            _swap(partial, destination)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file whole: the old content is there until the new one is on disk.

    Raises `InputError` naming the path if it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}{_PARTIAL}", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _check_free(destination: Path, force: bool) -> None:
    if os.path.lexists(destination) and not force:
        raise InputError("destination", "a path that does not exist (or --force)", destination)
    if os.path.lexists(destination) and not destination.is_dir():
        raise InputError("destination", "a folder", destination)


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError("destination", "a place that can be written", f"{path} ({error.strerror})")


@contextlib.contextmanager
def _exclusive(destination: Path, locks: Path) -> Generator[None]:
    # Only exports lock; whoever just runs a bundle does not wait for this import.
    from filelock import FileLock, Timeout

    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        expected = f"a folder that can be written (${VARIABLE})"
        raise InputError("cache", expected, f"{locks.parent} ({error.strerror})") from error
    key = hashlib.sha256(os.fsencode(destination.resolve())).hexdigest()[:32]
    try:
        with FileLock(locks / f"{key}.lock", timeout=0):
            yield
    except Timeout as error:
        raise BundleError(destination, "is being written by another process") from error


def _remove_leftovers(destination: Path) -> None:
    for mark in (_PARTIAL, _REPLACED):
        for path in destination.parent.glob(f".{glob.escape(destination.name)}{mark}*"):
            shutil.rmtree(path, ignore_errors=True)


def _swap(partial: Path, destination: Path) -> None:
    if not destination.exists():
        os.rename(partial, destination)
    else:
        aside = tempfile.mkdtemp(prefix=f".{destination.name}{_REPLACED}", dir=destination.parent)
        old = Path(aside) / destination.name
        try:
            os.rename(destination, old)
            os.rename(partial, destination)
        except OSError:
            with contextlib.suppress(OSError):
                os.rename(old, destination)  # if it was the second that failed
            with contextlib.suppress(OSError):
                os.rmdir(aside)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    _flush_folder(destination.parent)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
