"""Proof that a file was written here: by this user, in this folder.

The proof is the HMAC-SHA256 of the content under a random secret. Only this user can read the
secret's file. The proof is the first line of the file it is for, so both are replaced at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.cache_folder import VARIABLE, unwritable
from latentrt.bundle.errors import FileError
from latentrt.bundle.files import open_file

_BYTES: Final = 32
_FOREIGN: Final = "belongs to another user: engines of others are not loaded"


class RecordSigner:
    """The secret of a folder, made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "secret"
        self._lock = folder / "locks" / "secret.lock"

    def signed(self, value: object) -> bytes:
        """A value of JSON and its proof, to be written as one file.

        Raises `FileError` for a secret that others may read or that is no file, `Unwritable` where
        none can be made.
        """
        content = json.dumps(value, indent=1).encode()
        return _proof(self._secret(), content) + b"\n" + content

    def opened(self, content: bytes) -> Any:
        """The value that was signed; None if the proof is not of it, or there is no secret.

        Raises `FileError` for a secret that others may read or that is no file.
        """
        secret = self._stored()
        proof, _, rest = content.partition(b"\n")
        if secret is None or not hmac.compare_digest(proof, _proof(secret, rest)):
            return None
        return json.loads(rest)

    def _secret(self) -> bytes:
        """The secret, made now if there is none or it is not whole."""
        found = self._stored()
        if found is not None:
            return found
        from filelock import FileLock

        try:
            with FileLock(self._lock):
                found = self._stored()
                return _write_secret(self._path) if found is None else found
        except OSError as error:
            raise unwritable(self._path, error.strerror or error) from error

    def _stored(self) -> bytes | None:
        """The secret; None if there is none, or it is not whole and so no secret."""
        try:
            check_private(self._path, 0o077)
            with open_file(self._path) as file:
                found = file.read(_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}; remove it"
            raise FileError(self._path, problem) from error
        return found if len(found) == _BYTES else None


def _proof(secret: bytes, content: bytes) -> bytes:
    return hmac.new(secret, content, hashlib.sha256).hexdigest().encode()


def check_private(path: Path, forbidden: int) -> None:
    """Raise `FileError` if another user owns the path or has one of the forbidden mode bits."""
    if os.name == "nt":  # a profile's own folders are private there
        return
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise FileError(path, f"{_FOREIGN}; set ${VARIABLE} to a folder of your own")
    if found.st_mode & forbidden:
        closed = f"{found.st_mode & 0o777 & ~forbidden:o}"
        raise FileError(path, f"is open to other users: chmod {closed} it")


def _write_secret(path: Path) -> bytes:
    made = secrets.token_bytes(_BYTES)
    partial = path.with_suffix(".partial")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return made
