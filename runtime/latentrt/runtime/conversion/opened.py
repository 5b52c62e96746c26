"""What a path that is to be opened has: a bundle, or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from latentrt.bundle.manifest import FILE_NAME
from latentrt.weights.hub import is_hub_name

_INDEX: Final = "model_index.json"


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint rather than a bundle, by what is there.

    A path where nothing is may be a name on the hub, `org/name`.
    """
    if path.is_dir():
        return not (path / FILE_NAME).exists() and (path / _INDEX).exists()
    return path.is_file() or (not path.exists() and is_hub_name(path.as_posix()))
