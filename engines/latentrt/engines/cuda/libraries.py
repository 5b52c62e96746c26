"""What of NVIDIA's software, beside the GPU and its driver, decides what an engine computes.

The cache key has it. Libraries that came otherwise than as wheels are not seen here.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from typing import Final

TF32: Final = "NVIDIA_TF32_OVERRIDE"
"""The variable that, set to 0, forbids TF32 to all of NVIDIA's libraries, whatever is asked."""

_LIBRARIES: Final = ("cublas", "cuda-nvrtc", "cuda-runtime", "cudnn", "cufft", "curand")
# Wheels are named for the CUDA that they are of; of CUDA 13 most have the plain name.
_SUFFIXES: Final = ("", "-cu13", "-cu12")


def library_versions() -> dict[str, str]:
    """The version of each of NVIDIA's libraries that ONNX Runtime may call, where it is a wheel."""
    found: dict[str, str] = {}
    for library in _LIBRARIES:
        for suffix in _SUFFIXES:
            name = f"nvidia-{library}{suffix}"
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found


def tf32_override() -> dict[str, str]:
    """What this process's environment says of TF32: fp32 that was verified without may be off."""
    return {TF32: os.environ.get(TF32, "unset")}
