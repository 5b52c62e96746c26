"""Proof that a file was written here: by this user, in this folder.

The proof is the HMAC-SHA256 of the content under a random secret, a file that this user alone can
read; whoever can forge it could as well change the program. It is the first line of the very file
that it is the proof of, so that both are replaced at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from latentrt.bundle.errors import FileError


class Seal:
    """The secret of a folder, made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "secret"
        self._lock = folder / "locks" / "secret.lock"

    def sealed(self, value: object) -> bytes:
        """A value of JSON and its proof, to be written as one file.

        Raises `FileError` for a secret that others may read.
        """
        content = json.dumps(value, indent=1).encode()
        return self._proof(content) + b"\n" + content

    def opened(self, content: bytes) -> Any:
        """The value that was sealed; None if the proof is not of it.

        Raises `FileError` for a secret that others may read.
        """
        proof, _, rest = content.partition(b"\n")
        return json.loads(rest) if hmac.compare_digest(proof, self._proof(rest)) else None

    def _proof(self, content: bytes) -> bytes:
        return hmac.new(self._secret(), content, hashlib.sha256).hexdigest().encode()

    def _secret(self) -> bytes:
        if not self._path.exists():
            from filelock import FileLock

            with FileLock(self._lock):
                if not self._path.exists():
                    _write_secret(self._path)
        check_private(self._path, 0o077)
        return self._path.read_bytes()


def check_private(path: Path, forbidden: int) -> None:
    """Raise `FileError` if another user owns the path or has one of the forbidden mode bits."""
    if os.name == "nt":  # a profile's own folders are private there
        return
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise FileError(path, "belongs to another user: engines of others are not loaded")
    if found.st_mode & forbidden:
        closed = f"{found.st_mode & 0o777 & ~forbidden:o}"
        raise FileError(path, f"is open to other users: chmod {closed} it")


def _write_secret(path: Path) -> None:
    partial = path.with_suffix(".partial")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
