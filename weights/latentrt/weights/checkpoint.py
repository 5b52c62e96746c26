"""A diffusers folder, read without PyTorch: configs, and tensors under canonical names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError, InputError, WeightsError
from latentrt.bundle.tensors import Entry, Place, TensorFile
from latentrt.weights.contents import (
    CONVERT,
    JSON,
    PICKLES,
    TEXT,
    WEIGHTS,
    check_contents,
    list_folder,
    read_bytes,
    read_json,
)
from latentrt.weights.ldm_names import OLD_ATTENTION
from latentrt.weights.weight_files import WeightFiles, find_weights, library_of, variants

HARMLESS: Final = frozenset({"text_model.embeddings.position_ids"})
"""Buffers that checkpoints contain and no graph reads."""


class Tensors(Mapping[str, NDArray[Any]]):
    """The tensors of one component, sharded or not, under canonical names.

    `renamed` names the convention of the stored names, if it is not the canonical one. `notes`
    describe the choice of files, a sentence each.
    """

    def __init__(
        self, files: tuple[TensorFile, ...], folder: str, notes: tuple[str, ...] = ()
    ) -> None:
        self._places: dict[str, tuple[TensorFile, str]] = {}
        self.notes = notes
        self.renamed: str = ""
        for file in files:
            for stored in file:
                name, convention = canonical_name(stored, folder)
                if name in self._places:
                    raise CheckpointError(file.path, f"tensor {stored!r} occurs twice")
                self.renamed = self.renamed or convention
                self._places[name] = (file, stored)

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without reading it."""
        file, stored = self._places[name]
        return file.entries[stored]

    def place(self, name: str) -> Place:
        """Where a tensor lies in its file."""
        file, stored = self._places[name]
        return Place(file.path, file.entries[stored])

    def __getitem__(self, name: str) -> NDArray[Any]:
        file, stored = self._places[name]
        return file[stored]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


_ATTENTION: Final = {old: name for name, old in OLD_ATTENTION.items()}
_OLD_VAE: Final = re.compile(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)")


def canonical_name(stored: str, folder: str) -> tuple[str, str]:
    """The canonical name of a stored tensor, and its own naming ("" if the same).

    Text encoders bear the prefix `text_model.`, which some writers drop; old VAEs name their
    attention layers query, key, value, proj_attn.
    """
    if folder.startswith("text_encoder") and stored.split(".")[0] in (
        "embeddings",
        "encoder",
        "final_layer_norm",
    ):
        return f"text_model.{stored}", "text encoder without the prefix 'text_model.'"
    match = _OLD_VAE.fullmatch(stored)
    if folder == "vae" and match is not None:
        return f"{match[1]}{_ATTENTION[match[2]]}{match[3]}", "VAE with old attention names"
    return stored, ""


def listed_class(index: Mapping[str, Any], folder: str) -> str | None:
    """The class that `model_index.json` names for a part, None if it lists no such part.

    Raises `ValueError` for an entry that is not a library and a class, and for a class of another
    library than the part's own.
    """
    entry: object = index.get(folder)
    if entry is None:
        return None
    pair = cast("list[object]", entry) if isinstance(entry, list) else []
    if len(pair) != 2 or not all(isinstance(word, str) for word in pair):
        raise ValueError(f"{folder} is {entry!r}, expected a library and a class")
    library, name = str(pair[0]), str(pair[1])
    own = library_of(folder).name
    if library.split(".")[0] != own:  # its module, too, as in "transformers.models.clip"
        raise ValueError(f"{folder} is a {name} of {library!r}; classes of {own} are supported")
    return name


def class_of(
    index: Mapping[str, Any], config: Mapping[str, Any], folder: str
) -> tuple[str | None, str]:
    """The class of a part, and a note where its own config does not name it ("" if it does).

    `model_index.json` decides, as in diffusers' pipelines; a part that it does not list is of the
    class that its config names, None if neither does. Raises what `listed_class` raises.
    """
    several: object = config.get("architectures")
    listed = cast("list[object]", several) if isinstance(several, list) else [several]
    stated = config.get("_class_name") or next(iter(listed), None)
    name = listed_class(index, folder)
    if name is None:
        return (None if stated is None else str(stated)), ""
    if name == stated:
        return name, ""
    said = "names no class" if stated is None else f"says {stated!r}"
    return name, f"{folder}: read as {name}, as model_index.json has it; its config.json {said}"


_SNAPSHOT: Final = re.compile(r"models--.+?--(.+)/snapshots/[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A diffusers folder: `model_index.json` and one folder a component.

    `variant` is the name of the weights files to prefer, such as "fp16"; None for the plain ones.
    """

    path: Path
    index: Mapping[str, Any]
    variant: str | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def open(path: Path, variant: str | None = None) -> Checkpoint:
        """Open a folder; raises `CheckpointError` if it is not one, saying what it is.

        Raises `InputError` for a variant that no file of any part is named after.
        """
        try:
            index = _find_index(path)
        except OSError as error:  # such as a name that is too long
            problem = f"cannot be read: {error.strerror or error}"
            raise CheckpointError(path, problem) from error
        checkpoint = Checkpoint(path, read_json(index), variant)
        found = checkpoint.variants() if variant is not None else ()
        if variant is not None and variant not in found:
            expected = f"one that files of {path} are named after ({', '.join(found) or 'none'})"
            raise InputError("variant", expected, repr(variant))
        return checkpoint

    @property
    def name(self) -> str:
        """The checkpoint's name in messages and manifests.

        It is the folder's, or the repository's where the folder is a snapshot in the hub's cache.
        Bytes that are no UTF-8 are replaced.
        """
        path = self.path.resolve()
        found = _SNAPSHOT.fullmatch("/".join(path.parts[-3:]))
        name = path.name if found is None else found[1]
        return os.fsencode(name).decode("utf-8", "replace")

    def variants(self) -> tuple[str, ...]:
        """The variants that weights files of the parts are named after."""
        folders = [self.path / name for name in list_folder(self.path) if name in self.index]
        names = [name for folder in folders if folder.is_dir() for name in list_folder(folder)]
        return variants(names)

    def config(self, folder: str) -> Mapping[str, Any]:
        """`config.json` (or the scheduler's, the tokenizer's) of a component."""
        kind = folder.removesuffix("_2")
        names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
        return read_json(self.path / folder / names.get(kind, "config.json"))

    def files(self, folder: str) -> WeightFiles:
        """The files that hold a component's tensors; raises `CheckpointError` if there are none."""
        where = self.path / folder
        own = where / "config.json"
        # transformers alone lets a config name the file.
        config = read_json(own) if folder.startswith("text_encoder") and own.is_file() else {}
        return find_weights(where, self.variant, config.get("transformers_weights"))

    def tensors(self, folder: str) -> Tensors:
        """The tensors of a component; raises `CheckpointError` if there is no safetensors file."""
        files = self.files(folder)
        try:
            for path in files.paths:
                check_contents(path, WEIGHTS)
            opened = tuple(TensorFile(path) for path in files.paths)
        except WeightsError as error:
            raise CheckpointError(error.path, error.problem) from error
        return Tensors(opened, folder, files.notes(self.variant))

    def tokenizer(self, folder: str = "tokenizer") -> dict[str, bytes]:
        """The files of a tokenizer by name, unchanged: all that its own loader may read."""
        where = self.path / folder
        names = {
            "tokenizer.json": JSON,
            "vocab.json": JSON,
            "merges.txt": TEXT,
            "tokenizer_config.json": JSON,
            "special_tokens_map.json": JSON,
            "added_tokens.json": JSON,
            # Those that a tokenizer_config.json lists for single versions of transformers.
            **{path.name: JSON for path in sorted(where.glob("tokenizer.*.json"))},
        }
        found = {
            name: read_bytes(where / name, expected)
            for name, expected in names.items()
            if os.path.lexists(where / name)
        }
        if "tokenizer.json" not in found and not {"vocab.json", "merges.txt"} <= set(found):
            raise CheckpointError(where, "has neither tokenizer.json nor vocab.json and merges.txt")
        return found


def _find_index(path: Path) -> Path:
    if path.is_file():
        if path.suffix in PICKLES:
            raise CheckpointError(path, CONVERT)
        raise CheckpointError(path, "is a file; a diffusers folder is expected")
    if not path.is_dir():
        raise CheckpointError(path, "no such checkpoint folder")
    index = path / "model_index.json"
    if not os.path.lexists(index):
        pickles = [name for name in list_folder(path) if name.endswith(PICKLES)]
        if pickles:
            raise CheckpointError(path / pickles[0], CONVERT)
        raise CheckpointError(path, "is not a diffusers folder: it has no model_index.json")
    return index
