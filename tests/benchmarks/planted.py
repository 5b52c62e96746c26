"""Bundles with a fault in what their engines read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.tensors import TensorFile

FAULT = 1.01


def planted(bundle: Path, folder: Path, component: str, *tensors: str) -> Bundle:
    """A copy of a bundle, opened, in which some weights are scaled by 1.01.

    Its manifest is that of the bundle as it was.
    """
    opened = Bundle.open(Path(shutil.copytree(bundle, folder)))
    path = opened.weights(component)
    file = TensorFile(path)
    content = bytearray(path.read_bytes())
    for tensor in tensors:
        entry = file.entries[tensor]
        scaled = (file[tensor].astype(np.float64) * FAULT).astype(entry.dtype)
        content[entry.begin : entry.end] = scaled.tobytes()
    path.unlink()  # the old bytes stay mapped
    path.write_bytes(content)
    return opened
