"""What a service has, by name: models, LoRAs, embeddings, ControlNets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import BundleError, FileError, InputError
from latentrt.bundle.manifest import FILE_NAME, Manifest, read_manifest
from latentrt.runtime.weight_folders import weights_files
from latentrt.serving.problem import Problem, Refused

_ENDING: Final = ".safetensors"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Paths of models, the first of them the default, and the folders of other weights.

    A model's name is its folder's, or its file's without its ending. Raises `InputError` for two
    of one name and for a folder that is none.
    """

    models: tuple[Path, ...]
    loras: Path | None = None
    embeddings: Path | None = None
    controls: Path | None = None

    def __post_init__(self) -> None:
        names = self.model_names
        if not names:
            raise InputError("models", "at least one bundle or checkpoint", "none")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise InputError("models", "one model a name", f"two of name {twice[0]!r}")
        for name in ("loras", "embeddings", "controls"):
            folder: Path | None = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise InputError(name, "a folder", folder)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of the models, the default first."""
        return tuple(_name(path) for path in self.models)

    def model_name(self, name: str | None) -> str:
        """The name itself, or the default's for None; raises `Refused` for an unknown one."""
        if name is None:
            return self.model_names[0]
        self.model(name)
        return name

    def model(self, name: str) -> Path:
        """A model's path; raises `Refused` for an unknown name."""
        for path in self.models:
            if _name(path) == name:
                return path
        expected = f"one of {', '.join(self.model_names)}"
        text = f"model: expected {expected}, got {shown(name)}"
        raise Refused(Problem(404, text, "model", "model_not_found"))

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a model that is a bundle; None for a checkpoint, and a damaged bundle."""
        try:
            return read_manifest(self.model(name))
        except BundleError:
            return None

    @property
    def lora_names(self) -> tuple[str, ...]:
        """The names of the LoRAs, sorted."""
        return _files(self.loras)

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """The tokens of the embeddings, sorted."""
        return _files(self.embeddings)

    @property
    def control_names(self) -> tuple[str, ...]:
        """The names of the ControlNets, sorted: bundles, diffusers folders and files."""
        return tuple(sorted(_control_paths(self.controls)))

    def lora(self, name: str) -> Path:
        """A LoRA's path; raises `InputError` for an unknown name."""
        if self.loras is None or name not in self.lora_names:
            raise InputError("lora", _expected(self.lora_names, "--lora-dir"), shown(name))
        return self.loras / f"{name}{_ENDING}"

    def control(self, name: str) -> Path:
        """A ControlNet's path; raises `InputError` for an unknown name."""
        found = _control_paths(self.controls).get(name)
        if found is None:
            raise InputError("control", _expected(self.control_names, "--control-dir"), shown(name))
        return found


def _name(path: Path) -> str:
    return path.stem if path.suffix == _ENDING else path.name


def _files(folder: Path | None) -> tuple[str, ...]:
    if folder is None:
        return ()
    try:
        files = weights_files(folder)
    except FileError:  # it was removed since
        return ()
    return tuple(sorted(each.stem for each in files if each.suffix == _ENDING))


def _control_paths(folder: Path | None) -> dict[str, Path]:
    if folder is None or not folder.is_dir():
        return {}
    return {
        _name(path): path
        for path in sorted(folder.iterdir())
        if path.suffix == _ENDING
        or (path / FILE_NAME).is_file()
        or (path / "config.json").is_file()
    }


def _expected(names: Sequence[str], option: str) -> str:
    return f"one of {', '.join(names)}" if names else f"none: the service has no {option}"
