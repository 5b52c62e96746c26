"""A compiled engine on disk.

An entry is a folder, named by the digest of its key. `files/` has what a backend wrote. `record`
has the key, the size and SHA-256 of every file, and the result of verification. It is signed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.bundle import record_files
from latentrt.bundle.files import read_file
from latentrt.bundle.manifest import FileRecord
from latentrt.bundle.publish import write_file
from latentrt.engines.cache.key import digest
from latentrt.engines.cache.signing import RecordSigner

FILES: Final = "files"
_RECORD: Final = "record"

Record = Mapping[str, Any]
"""The result of comparing an engine with a reference."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A stored engine.

    `used` is when it was last loaded, in seconds since 1970; `problem` says why it is not to be
    trusted, and then `key`, `files` and `verification` are empty.
    """

    path: Path
    size: int
    used: float
    key: Mapping[str, str]
    files: Mapping[str, FileRecord]
    verification: Record
    problem: str = ""

    @staticmethod
    def read(path: Path, signer: RecordSigner) -> CacheEntry | None:
        """What is stored at a path; None if there is nothing."""
        try:
            used = (path / _RECORD).stat().st_mtime
            content = read_file(path / _RECORD)
        except OSError as error:
            if not path.exists():
                return None
            return _refused(path, 0.0, f"is not whole ({error})")
        value = signer.opened(content)
        if value is None:
            return _refused(path, used, "its record was not written here: the HMAC differs")
        key: dict[str, str] = value["key"]
        if digest(key) != path.name:
            return _refused(path, used, "is another engine's, moved")
        files = {name: FileRecord(**record) for name, record in value["files"].items()}
        return CacheEntry(path, _size(path), used, key, files, value["verification"])

    @property
    def damage(self) -> str:
        """Why it cannot be loaded; nothing if its files are what was written."""
        if self.problem:
            return self.problem
        try:
            found = record_files(self.path / FILES)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        for name in sorted({*found, *self.files}):
            if found.get(name) != self.files.get(name):
                return f"{name} has changed since it was built"
        return ""

    def touch(self) -> None:
        """Note that it was loaded now."""
        with contextlib.suppress(OSError):  # it may just have been removed
            os.utime(self.path / _RECORD)

    def renew(self, verification: Record, signer: RecordSigner) -> None:
        """Replace how it did, whole, unless it is another entry by now, or none."""
        now = CacheEntry.read(self.path, signer)
        if now is not None and not now.problem and now.files == self.files:
            _write(self.path, self.key, self.files, verification, signer)

    def disown(self) -> None:
        """Take the record away, so that no half of it is trusted while it is deleted."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / _RECORD).unlink()


def write_record(
    folder: Path, key: Mapping[str, str], verification: Record, signer: RecordSigner
) -> None:
    """Record what lies under a folder's `files/`, with its proof."""
    _write(folder, key, record_files(folder / FILES), verification, signer)


def _write(
    folder: Path,
    key: Mapping[str, str],
    files: Mapping[str, FileRecord],
    verification: Record,
    signer: RecordSigner,
) -> None:
    value = {
        "key": dict(key),
        "files": {name: asdict(f) for name, f in files.items()},
        "verification": dict(verification),
    }
    write_file(folder / _RECORD, signer.signed(value))


def _refused(path: Path, used: float, problem: str) -> CacheEntry:
    return CacheEntry(path, _size(path), used, {}, {}, {}, problem)


def _size(folder: Path) -> int:
    # Unlike rglob, walk goes on where a folder has just been removed.
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(parent, name))
    return total
