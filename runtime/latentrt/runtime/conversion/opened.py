"""What a path that is to be opened has: a bundle, or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from latentrt.bundle.manifest import FILE_NAME

_INDEX: Final = "model_index.json"


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint's file or folder rather than a bundle, by what is there."""
    if path.is_dir():
        return not (path / FILE_NAME).exists() and (path / _INDEX).exists()
    return path.is_file()
