"""The weights of a bundle: in files of its own, or in those of the checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError
from latentrt.bundle.stored_tensors import Location, table_json
from latentrt.bundle.tensors import FLOAT8, Entry, Layout, write_tensors
from latentrt.weights.finite import is_finite
from latentrt.weights.parts import Part

_SHARE: Final = 0.5
"""A part stays in the checkpoint's files where at least this share of its bytes can."""


class Progress(Protocol):
    """Called with the progress of a stage; `total` is in the stage's own unit."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class StoredPart:
    """Where the tensors of a part lie in a bundle.

    `files` are paths in the bundle; `table` is the file that lists the tensors, None where they
    have their canonical names in one file. `notes` say what was not copied.
    """

    files: tuple[str, ...]
    locations: Mapping[str, Location]
    table: str | None = None
    notes: tuple[str, ...] = ()


def store_weights(
    folder: Path,
    source: str,
    parts: Sequence[Part],
    dtype: np.dtype[Any],
    *,
    link: bool,
    progress: Progress,
) -> dict[str, StoredPart]:
    """Write the weights of a checkpoint at a dtype into a bundle, by part.

    `source` is the checkpoint's name in errors. With `link`, tensors that have the dtype already
    stay in the checkpoint's files. Raises `CheckpointError` naming a tensor with a value that is
    not finite or does not fit.
    """
    total = sum(dtype.itemsize * _size(part.tensors.entry(n)) for part in parts for n in part.names)
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress("weights", done, total)

    progress("weights", 0, total)
    writer = _Writer(folder, source, dtype, advance)
    kept = {part.folder: _kept(part, dtype) if link else {} for part in parts}
    files = _file_names(kept)
    notes = {path: _linked(path, folder / name) for path, name in files.items()}
    stored: dict[str, StoredPart] = {}
    for part in parts:
        own = kept[part.folder]
        if not own:
            stored[part.folder] = writer.copied(part)
            continue
        said = sorted({notes[path] for path, _ in own.values()})
        stored[part.folder] = writer.pointed(part, own, files, said)
    return stored


def _size(entry: Entry) -> int:
    return entry.nbytes // entry.dtype.itemsize


def _kept(part: Part, dtype: np.dtype[Any]) -> dict[str, tuple[Path, Entry]]:
    """The tensors that can stay where they are, empty if these are the lesser part."""
    found: dict[str, tuple[Path, Entry]] = {}
    for name in part.names:
        place = part.tensors.place(name)
        if place is not None and place.entry.dtype == dtype:
            found[name] = (place.path, place.entry)
    whole = sum(_size(part.tensors.entry(name)) for name in part.names)
    return found if sum(_size(e) for _, e in found.values()) >= _SHARE * whole else {}


def _file_names(kept: Mapping[str, Mapping[str, tuple[Path, Entry]]]) -> dict[Path, str]:
    """A path in the bundle for each of the checkpoint's files."""
    readers: dict[Path, list[str]] = {}
    for folder, tensors in kept.items():
        for path in sorted({path for path, _ in tensors.values()}):
            readers.setdefault(path, []).append(folder)
    names: dict[Path, str] = {}
    for path, folders in readers.items():
        stem = folders[0] if len(folders) == 1 else "checkpoint"
        taken = 1
        while (name := f"weights/{stem}{f'-{taken}' * (taken > 1)}.safetensors") in names.values():
            taken += 1
        names[path] = name
    return names


def _linked(source: Path, target: Path) -> str:
    """Link a file, or copy it; returns which of the two was done."""
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        return f"{source.name}: copied, since no hard link to it can be made"
    return f"{source.name}: read where it is, through a hard link"


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes parts into a bundle's folder."""

    folder: Path
    source: str
    dtype: np.dtype[Any]
    advance: Callable[[int], None]

    def copied(self, part: Part) -> StoredPart:
        """A part in a file of its own, under canonical names."""
        file = f"weights/{part.folder}.safetensors"
        return StoredPart((file,), self._write(file, part, part.names))

    def pointed(
        self,
        part: Part,
        kept: Mapping[str, tuple[Path, Entry]],
        files: Mapping[Path, str],
        notes: Sequence[str],
    ) -> StoredPart:
        """A part of which the kept tensors lie in linked files, the others in one of its own."""
        where = f"{self.source}/{part.folder}"
        locations: dict[str, Location] = {}
        for name, (path, place) in kept.items():
            if not is_finite(part.tensors[name]):
                raise CheckpointError(where, f"tensor {name!r} holds a value that is not finite")
            self.advance(place.nbytes)
            shape = part.tensors.entry(name).shape
            entry = Entry(name, place.dtype, shape, place.begin, place.end)
            locations[name] = (files[path], entry)
        read = [files[path] for path in dict.fromkeys(path for path, _ in kept.values())]
        others = [name for name in part.names if name not in kept]
        if others:
            file = f"weights/{part.folder}.converted.safetensors"
            locations |= self._write(file, part, others)
            read.append(file)
        table = f"weights/{part.folder}.json"
        (self.folder / table).write_text(table_json(locations) + "\n", "utf-8")
        return StoredPart(tuple(read), locations, table, tuple(notes))

    def _write(self, file: str, part: Part, names: Sequence[str]) -> dict[str, Location]:
        layout = Layout.of({n: (self.dtype, part.tensors.entry(n).shape) for n in names})
        write_tensors(
            self.folder / file,
            layout,
            lambda name: _converted(self.source, part, name, self.dtype),
            self.advance,
        )
        return {name: (file, entry) for name, entry in layout.entries.items()}


def _converted(source: str, part: Part, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    stored = part.tensors[name]
    if stored.dtype.name in FLOAT8:
        stored = stored.astype(np.float32)  # exact
    where = f"{source}/{part.folder}"
    if not is_finite(stored):
        raise CheckpointError(where, f"tensor {name!r} holds a value that is not finite")
    if stored.dtype == dtype:
        return stored
    with np.errstate(over="ignore"):
        converted = stored.astype(dtype)
    if not is_finite(converted):
        raise CheckpointError(where, f"tensor {name!r} does not fit into {dtype}")
    return converted
