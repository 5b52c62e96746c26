"""Write folders and files so that they appear whole or not at all.

They are written in a hidden neighbour of their destination, so on the same filesystem. Then they
are flushed to disk and renamed. A process that is killed meanwhile leaves the destination as it
was, or, between the two renames of a replacement, no destination. It also leaves a hidden folder,
which the next process that publishes there removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Final

from latentrt.bundle.cache_folder import cache_folder, unwritable
from latentrt.bundle.errors import BundleError, FileError, InputError, LatentrtError, Unwritable

_PARTIAL: Final = ".partial-"
_REPLACED: Final = ".replaced-"
_LONG: Final = 100
"""Longest name, in bytes, that a hidden neighbour's name repeats; for a longer one, its digest."""
_FAULTS: Final = frozenset(
    {errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}
)
"""Errors of writing to an open file; they name no path."""


@contextlib.contextmanager
def publishing(
    destination: Path, *, force: bool = False, locks: Path | None = None
) -> Generator[Path]:
    """Yield an empty folder; leaving the block without an error makes it `destination`.

    `locks` is the folder that has the lock, by default the cache folder's.

    Raises `InputError` if the destination exists and `force` is false. Raises `Unwritable`, an
    `InputError`, if its parent or the lock's folder cannot be written, or the disk is full. Raises
    `BundleError` if another process is publishing the same destination. An `OSError` of the block
    becomes an error that names the path.
    """
    destination = Path(os.path.abspath(destination))
    with _naming(destination):
        _check_free(destination, force)
        destination.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(destination, cache_folder() / "locks" if locks is None else locks):
        with _naming(destination):
            _remove_leftovers(destination)
            partial = _neighbour(destination, _PARTIAL)
            partial.mkdir()
        try:
            with _naming(destination, partial):
                yield partial
            with _naming(destination):
                _flush(partial)
                _check_free(destination, force)
                _swap(partial, destination)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def publishing_file(destination: Path, *, force: bool = False) -> Generator[Path]:
    """Yield a path to write a file to; leaving the block without an error makes it `destination`.

    Raises `InputError` if the destination exists and `force` is false, and `Unwritable` if it
    cannot be written. An `OSError` of the block becomes an error that names the path.
    """
    destination = Path(os.path.abspath(destination))
    with _naming(destination):
        target, mode = _file_behind(destination)
        if mode is not None and not force:
            raise InputError("destination", "a path that does not exist (or --force)", destination)
        target.parent.mkdir(parents=True, exist_ok=True)
    partial = _neighbour(target, _PARTIAL)
    try:
        with _naming(destination, partial):
            yield partial
        with _naming(destination):
            os.replace(partial, target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_file(path: Path, content: bytes) -> None:
    """Replace a file whole: the old content is there until the new one is on disk.

    As with `open`, a link is followed, and a new file has the umask's mode. A file that existed
    keeps its own. Raises `Unwritable` naming the path if it cannot be written or is not a file.
    """
    with _naming(path):
        target, mode = _file_behind(path)
        partial = _neighbour(target, _PARTIAL)
        try:
            with open(partial, "xb") as file:
                if mode is not None and hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()


def _file_behind(path: Path) -> tuple[Path, int | None]:
    """The target of a path, and the mode of the file at it, if there is one."""
    target = Path(os.path.realpath(path))
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return target, None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device or pipe"
        raise Unwritable("destination", "a file", f"{path}, {kind}")
    return target, stat.S_IMODE(found.st_mode) & 0o777


def _check_free(destination: Path, force: bool) -> None:
    try:
        os.lstat(destination)
    except FileNotFoundError:
        return
    if not force:
        raise InputError("destination", "a path that does not exist (or --force)", destination)
    if not destination.is_dir():
        raise InputError("destination", "a folder", destination)


@contextlib.contextmanager
def _naming(path: Path, inside: Path | None = None) -> Generator[None]:
    """Convert every `OSError` to an error that names a path.

    The path is the error's own if it lies outside `inside`, and else `path`. `inside` is the folder
    that will be renamed to `path`.
    """
    try:
        yield
    except OSError as error:
        named = _named(path, inside, error)
        if named is None:
            raise
        raise named from error
    except ValueError as error:
        # The path has a NUL, or a letter that this system's names cannot have.
        if inside is not None or isinstance(error, LatentrtError):
            raise
        shown = os.fspath(path).encode("utf-8", "backslashreplace").decode()
        raise Unwritable("destination", "a path of this system", f"{shown!r} ({error})") from error


def _named(path: Path, inside: Path | None, error: OSError) -> LatentrtError | None:
    problem = error.strerror or str(error)
    own = Unwritable("destination", "a place that can be written", f"{path} ({problem})")
    if inside is None:
        return own
    if error.filename is None:
        return own if error.errno in _FAULTS else None
    where = Path(os.fsdecode(error.filename))
    return own if where.is_relative_to(inside) else FileError(where, problem)


@contextlib.contextmanager
def _exclusive(destination: Path, locks: Path) -> Generator[None]:
    # Only exports lock: drawing does not wait for this import.
    from filelock import FileLock, Timeout

    key = hashlib.sha256(os.fsencode(destination.resolve())).hexdigest()[:32]
    lock = FileLock(locks / f"{key}.lock", timeout=0)
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise BundleError(destination, "is being written by another process") from error
    except OSError as error:
        raise unwritable(locks.parent, error.strerror or error) from error
    try:
        yield
    finally:
        lock.release()


def _neighbour(path: Path, mark: str) -> Path:
    return path.with_name(f"{_prefix(path, mark)}{secrets.token_hex(8)}")


def _prefix(path: Path, mark: str) -> str:
    """The beginning of a hidden neighbour's name, short enough for any filesystem."""
    name = os.fsencode(path.name)
    stem = path.name if len(name) <= _LONG else hashlib.sha256(name).hexdigest()[:32]
    return f".{stem}{mark}"


def _remove_leftovers(destination: Path) -> None:
    prefixes = tuple(_prefix(destination, mark) for mark in (_PARTIAL, _REPLACED))
    for name in os.listdir(destination.parent):
        path = destination.parent / name
        if not name.startswith(prefixes):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _swap(partial: Path, destination: Path) -> None:
    if not destination.exists():
        os.rename(partial, destination)
    else:
        aside = _neighbour(destination, _REPLACED)
        aside.mkdir()
        old = aside / destination.name
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
