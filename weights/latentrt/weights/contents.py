"""What a file of a checkpoint really is: pointers, web pages, unfinished downloads, pickles."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, cast

from latentrt.bundle.errors import CheckpointError
from latentrt.bundle.files import open_file, read_file
from latentrt.bundle.tensors import MAX_HEADER_BYTES

JSON: Final = "readable JSON"
TEXT: Final = "readable text"
WEIGHTS: Final = "a safetensors file"
"""Kinds of files."""

CONVERT: Final = (
    "a pickled file runs code when it is loaded; on a machine you trust, load it with PyTorch and "
    "write the tensors with safetensors.torch.save_file"
)
PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth")
UNFINISHED: Final = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".tmp")
"""Endings that downloaders give to unfinished files."""

_AGAIN: Final = "download it again"
_BEGINNINGS: Final = (
    (b"version https://git-lfs.github.com/", "a Git LFS pointer; run `git lfs pull`"),
    (b"version https://hawser.github.com/", "a Git LFS pointer; run `git lfs pull`"),
    (b"# xet version", "a Xet pointer; run `git xet checkout` or download the file"),
    (b"/annex/objects/", "a git-annex pointer; run `git annex get`"),
    (b"PK\x03\x04", f"a zip archive, as PyTorch pickles are; {CONVERT}"),
    (b"GGUF", "a GGUF file; weights in safetensors are read"),
    (b"\x89HDF", "an HDF5 file; weights in safetensors are read"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
)
_PAGES: Final = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")


def check_contents(path: Path, expected: str) -> None:
    """Raise `CheckpointError` if a file is clearly not what is `expected`.

    It does not check for a missing file, or for one that is malformed in its own format.
    """
    found = _other(path, expected)
    if found is not None:
        raise CheckpointError(path, f"is not {expected}: it is {found}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `CheckpointError` if the file is missing or not JSON."""
    check_contents(path, JSON)
    try:
        value: object = json.loads(read_file(path).decode("utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(path, "is missing") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, "is not a JSON object")
    return cast("dict[str, Any]", value)


def read_bytes(path: Path, expected: str) -> bytes:
    """A file's bytes; raises `CheckpointError` if it is clearly not what is `expected`."""
    check_contents(path, expected)
    try:
        return read_file(path)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error


def list_folder(where: Path) -> list[str]:
    """The names in a folder, sorted; raises `CheckpointError` if it cannot be read."""
    try:
        return sorted(os.listdir(where))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(where, "is missing") from None
    except OSError as error:
        raise CheckpointError(where, f"cannot be read: {error.strerror or error}") from error


def _other(path: Path, expected: str) -> str | None:
    if path.is_symlink() and not path.exists():
        return f"a broken symbolic link to {os.readlink(path)}; {_AGAIN}"
    try:
        if path.is_dir():
            return "a folder"
        with open_file(path) as file:
            head = file.read(256)
    except OSError:
        return None
    if not head:
        return f"empty; {_AGAIN}"
    if expected == WEIGHTS and _begins_as_safetensors(head, path.stat().st_size):
        return None
    for beginning, found in _BEGINNINGS:
        if head.startswith(beginning):
            return found
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"a pickle; {CONVERT}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:16].lower().startswith(_PAGES):
        return f"a web page; {_AGAIN}, logged in if needed"
    if not head.strip(b"\0"):
        return f"zeros at its beginning, an unfinished download; {_AGAIN}"
    return _text(head) if expected == WEIGHTS else None


def _begins_as_safetensors(head: bytes, size: int) -> bool:
    # 8 bytes of length, then a JSON object. Text read as a length would exceed any header's.
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= min(MAX_HEADER_BYTES, size) and head[8:9] in (b"{", b"")


def _text(head: bytes) -> str | None:
    line = head.decode("utf-8", "replace").strip().split("\n")[0][:60]
    return f"text, {line!r}; {_AGAIN}" if line.isprintable() and "\ufffd" not in line else None
