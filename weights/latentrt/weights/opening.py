"""Opens a checkpoint by the path of a folder or file, or by its name on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latentrt.bundle.errors import InputError
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.hub import is_hub_name, open_hub
from latentrt.weights.inference import Overrides
from latentrt.weights.single_file import SingleFile
from latentrt.weights.source import Source


def open_source(
    checkpoint: str | Path,
    variant: str | None = None,
    *,
    overrides: Overrides | None = None,
    parts: Mapping[str, Source] | None = None,
    like: Source | None = None,
) -> Source:
    """Open a diffusers folder, a single file, or a repository of the hub such as `org/name`.

    A path that exists is never looked up on the hub. `variant` names the weights files of a folder
    or repository to prefer, such as "fp16". `overrides`, `parts` and `like` are those of
    `SingleFile.open`. Raises `CheckpointError` saying what is wrong and what to do, and
    `InputError` for an argument that this kind of checkpoint does not have.
    """
    path = Path(checkpoint)
    if path.is_file():
        if variant is not None:
            raise InputError("variant", f"none with the file {path}", repr(variant))
        return SingleFile.open(path, overrides, parts, like)
    for field, value in (("overrides", overrides), ("parts", parts), ("configs", like)):
        if value:
            raise InputError(field, "none with a diffusers folder", repr(value))
    if not path.exists() and is_hub_name(str(checkpoint)):
        return open_hub(str(checkpoint), variant)
    return Checkpoint.open(path, variant)
