"""The tensors of a checkpoint by component, however it is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from latentrt.weights.checkpoint import Checkpoint, Tensors
from latentrt.weights.single_file import SingleFile
from latentrt.weights.source import TensorSource
from latentrt.weights.spelled_tensors import open_tensors

FOLDERS: Final = ("text_encoder", "text_encoder_2", "unet", "vae")
"""The components of a checkpoint that have tensors."""


def tensor_sources(path: Path) -> dict[str, TensorSource]:
    """The tensors of each component of a diffusers folder or single file, under canonical names.

    Raises `CheckpointError` for what is no whole checkpoint.
    """
    if path.is_file():
        return dict(SingleFile.open(path).tensors_of)
    checkpoint = Checkpoint.open(path)
    return {folder: checkpoint.tensors(folder) for folder in FOLDERS if (path / folder).is_dir()}


def stored_tensors(path: Path) -> Tensors:
    """The tensors of a single file under the names that it has.

    Raises `CheckpointError` for what is no safetensors file.
    """
    return Tensors((open_tensors(path),), "")
