"""Files whose hash was right once, so that gigabytes are not read at every start.

A bundle hashes its large files only when it is asked to, and engines read their weights from there
again at every load. So the size and modification time of a hashed file are kept. While both are
the same, the file counts as unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from latentrt.bundle.bundle import file_sha256
from latentrt.bundle.errors import BundleError, Unwritable
from latentrt.bundle.files import read_file
from latentrt.bundle.publish import write_file
from latentrt.engines.cache.signing import RecordSigner


class HashedFiles:
    """What a folder's notes say of files, one note a path."""

    def __init__(self, folder: Path, signer: RecordSigner) -> None:
        self.folder = folder
        self._signer = signer
        self._checked: set[tuple[object, ...]] = set()

    def check(self, path: Path, sha256: str) -> None:
        """Raise `BundleError` with both hashes if a file is not the one of that SHA-256.

        It is hashed if it is new here or has changed since it was last found right.
        """
        try:
            path = path.resolve()
            found = path.stat()
            now = [str(path), sha256, found.st_size, found.st_mtime_ns]
            note = self.folder / hashlib.sha256(os.fsencode(path)).hexdigest()[:40]
            if tuple(now) in self._checked or self._noted(note) == now:
                return
            got = file_sha256(path)
        except OSError as error:
            raise BundleError(path, f"cannot be read: {error.strerror or error}") from error
        if got != sha256:
            raise BundleError(
                path, f"has changed since export: its SHA-256 is {got[:12]}, not {sha256[:12]}"
            )
        try:
            with contextlib.suppress(OSError):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(note, self._signer.signed(now))
        except Unwritable:  # a cache that is only read: known to this process alone
            self._checked.add(tuple(now))

    def _noted(self, note: Path) -> Any:
        try:
            content = read_file(note)
        except OSError:
            return None
        return self._signer.opened(content)
