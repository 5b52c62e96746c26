"""A folder as a model hub's cache has it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path


def snapshot(source: Path, root: Path) -> Path:
    """The files of a folder as links into another folder, where they are named by their hash.

    Source: huggingface.co/docs/huggingface_hub/guides/manage-cache.
    """
    repository = root / "models--owner--name"
    folder, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for path in (p for p in source.rglob("*") if p.is_file()):
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        link = folder / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder
