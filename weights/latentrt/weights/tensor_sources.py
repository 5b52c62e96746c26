"""The tensors of a checkpoint by component, however it is stored."""

from __future__ import annotations

from pathlib import Path

from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.source import TensorSource

FOLDERS = ("text_encoder", "text_encoder_2", "unet", "vae")
"""The components of a checkpoint that have tensors."""


def tensor_sources(path: Path) -> dict[str, TensorSource]:
    """The tensors of each component of a diffusers folder, under canonical names.

    Raises `CheckpointError` for what is no checkpoint.
    """
    checkpoint = Checkpoint.open(path)
    return {folder: checkpoint.tensors(folder) for folder in FOLDERS if (path / folder).is_dir()}
