"""LoRA files written key by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray


def save(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Path:
    """Write arrays, or what NumPy makes of the values."""
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    own = None if metadata is None else dict(metadata)
    safetensors.numpy.save_file(arrays, path, own)
    return path


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Numbers of unit variance."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
