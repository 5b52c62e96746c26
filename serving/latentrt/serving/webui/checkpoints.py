"""Models by the web UI's names for them: "name.safetensors [hash]" and its short forms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from latentrt.bundle.errors import LatentrtError
from latentrt.bundle.manifest import FILE_NAME, XL, read_manifest
from latentrt.bundle.tensors import TensorFile
from latentrt.serving.shelf import Shelf

_HASH = re.compile(r"\s*\[[0-9a-fA-F]+\]$")
_SECOND_ENCODER = "conditioner.embedders.1."
"""How SDXL's single files begin the names of their second text encoder's tensors."""
_ENDINGS = (".safetensors", ".ckpt", ".pth", ".pt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model of the shelf. `sha256` is a bundle's model hash, "" for a file."""

    name: str
    path: Path
    sha256: str

    @property
    def title(self) -> str:
        """What the web UI shows and takes."""
        return f"{self.path.name} [{self.sha256[:10]}]" if self.sha256 else self.path.name


def checkpoints(shelf: Shelf) -> list[Checkpoint]:
    """The models of a shelf, the default first. It reads files: not for an event loop."""
    return [checkpoint(shelf, name) for name in shelf.model_names]


def checkpoint(shelf: Shelf, name: str) -> Checkpoint:
    """One of them; raises `Refused` for an unknown name."""
    path = shelf.model(name)
    return Checkpoint(name, path, _model_hash(path))


def model_named(shelf: Shelf, text: str) -> str:
    """The name of the model that a client means, by its title, name, file or hash.

    "" is the default. An unknown name is given back, for the shelf to refuse.
    """
    wanted = bare(text)
    if not wanted:
        return shelf.model_names[0]
    for name in shelf.model_names:
        if wanted.lower() == name.lower():
            return name
    for each in checkpoints(shelf):
        if each.sha256 and wanted.lower() in (each.sha256, each.sha256[:10]):
            return each.name
    return wanted


def skips_layers(shelf: Shelf, name: str) -> bool:
    """Whether clip skip changes a model's pictures: the web UI does not read it for SDXL."""
    path = shelf.model(name)
    try:
        if (path / FILE_NAME).is_file():
            return read_manifest(path).family not in XL
        if path.is_dir():
            return not (path / "text_encoder_2").is_dir()
        return not any(key.startswith(_SECOND_ENCODER) for key in TensorFile(path))
    except LatentrtError:  # what is wrong with it is said when it is opened
        return True


def bare(text: str) -> str:
    """A name without its hash, its folder and the ending of its file."""
    name = _HASH.sub("", text.strip()).replace("\\", "/").rpartition("/")[2]
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name


def _model_hash(path: Path) -> str:
    if not (path / FILE_NAME).is_file():
        return ""
    try:
        return read_manifest(path).model_hash
    except LatentrtError:  # what is wrong with it is said when it is opened
        return ""
