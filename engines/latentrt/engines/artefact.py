"""A compiled engine on disk.

An artefact is a folder: `files/`, what a backend wrote; `artefact.json`, the key, the size and
SHA-256 of every file, and how the engine did when it was verified; and `artefact.mac`, the proof
that the record was written here. Its name is the digest of its key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.bundle import record_files
from latentrt.bundle.manifest import FileRecord
from latentrt.engines.seal import Seal

FILES: Final = "files"
_RECORD: Final = "artefact.json"
_MAC: Final = "artefact.mac"

Record = Mapping[str, Any]
"""How an engine did when it was held against a reference."""


@dataclass(frozen=True, slots=True)
class Artefact:
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
    def read(path: Path, seal: Seal) -> Artefact | None:
        """What is stored at a path; None if there is nothing."""
        try:
            used = (path / _RECORD).stat().st_mtime
            content = (path / _RECORD).read_bytes()
            mac = (path / _MAC).read_text("ascii")
        except (OSError, ValueError) as error:
            if not path.exists():
                return None
            return _refused(path, 0.0, f"is not whole ({error})")
        if not seal.fits(content, mac):
            return _refused(path, used, f"{_RECORD} was not written here: its HMAC differs")
        value = json.loads(content)
        key: dict[str, str] = value["key"]
        if digest(key) != path.name:
            return _refused(path, used, "is another engine's, moved")
        files = {name: FileRecord(**record) for name, record in value["files"].items()}
        return Artefact(path, _size(path), used, key, files, value["verification"])

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

    def disown(self) -> None:
        """Take the proof away, so that no half of it is trusted while it is deleted."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / _MAC).unlink()


def write_record(folder: Path, key: Mapping[str, str], verification: Record, seal: Seal) -> None:
    """Record what lies under a folder's `files/`, with its proof."""
    value = {
        "key": dict(key),
        "files": {name: asdict(f) for name, f in record_files(folder / FILES).items()},
        "verification": dict(verification),
    }
    content = json.dumps(value, indent=1).encode()
    (folder / _RECORD).write_bytes(content)
    (folder / _MAC).write_text(seal.of(content), "ascii")


def digest(key: Mapping[str, str]) -> str:
    """An artefact's name."""
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:40]


def _refused(path: Path, used: float, problem: str) -> Artefact:
    return Artefact(path, _size(path), used, {}, {}, {}, problem)


def _size(folder: Path) -> int:
    sizes: list[int] = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return sum(sizes)
