"""The files of a merged checkpoint: a diffusers folder like A's, or one file like A's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.tensors import Layout, write_tensors
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.contents import PICKLES, list_folder
from latentrt.weights.merging import MergedTensors, add_difference, merge
from latentrt.weights.source import TensorSource
from latentrt.weights.tensor_sources import FOLDERS, stored_tensors
from latentrt.weights.weight_files import library_of

FORMAT: Final[Mapping[str, str]] = MappingProxyType({"format": "pt"})
"""What the metadata of a checkpoint's files must say for transformers."""

_SKIPPED: Final = (*PICKLES, ".safetensors", ".index.json", ".msgpack", ".h5")


def merge_checkpoints(
    a: Path,
    b: Path,
    c: Path | None,
    alpha: float,
    output: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Write (1 - alpha) * a + alpha * b, or a + alpha * (b - c); returns notes, a sentence each.

    `a` is a diffusers folder or a single file, and `output` becomes the same: an existing empty
    folder, or a file that is replaced. Configs, tokenizers and the scheduler are those of `a`.
    `progress` is called with bytes done and all bytes.

    Raises `CheckpointError`, `WeightsError` or `InputError` for checkpoints that cannot be read or
    do not fit.
    """
    others = [b] if c is None else [b, c]
    for other in others:
        if other.is_dir() != a.is_dir():
            kind = "folder" if a.is_dir() else "file"
            raise InputError("merge", f"a {kind}, as {a.name} is one", str(other))
    if a.is_dir():
        merged = dict(_merged_folders([Checkpoint.open(path) for path in (a, *others)], alpha))
    else:
        merged = {"": _merged([stored_tensors(path) for path in (a, *others)], alpha, a.name)}
    layouts = {folder: _layout(tensors) for folder, tensors in merged.items()}
    total = sum(e.nbytes for layout in layouts.values() for e in layout.entries.values())
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    if a.is_dir():
        _copy_texts(a, output, tuple(merged))
    for folder, tensors in merged.items():
        path = output / folder / library_of(folder).plain() if folder else output
        write_tensors(path, layouts[folder], lambda name, of=tensors: of[name], advance)
    return tuple(note for tensors in merged.values() for note in tensors.notes)


def _merged_folders(
    checkpoints: list[Checkpoint], alpha: float
) -> Iterator[tuple[str, MergedTensors]]:
    folders = [folder for folder in FOLDERS if (checkpoints[0].path / folder).is_dir()]
    for other in checkpoints[1:]:
        missing = [folder for folder in folders if not (other.path / folder).is_dir()]
        if missing:
            raise CheckpointError(other.path, f"has no {missing[0]}, which A has")
    for folder in folders:
        yield folder, _merged([each.tensors(folder) for each in checkpoints], alpha, folder)


def _merged(sources: list[TensorSource], alpha: float, name: str) -> MergedTensors:
    a, b, *rest = sources
    return add_difference(a, b, rest[0], alpha, name) if rest else merge(a, b, alpha, name)


def _layout(tensors: MergedTensors) -> Layout:
    entries = {name: tensors.entry(name) for name in tensors}
    return Layout.of({name: (e.dtype, e.shape) for name, e in entries.items()}, FORMAT)


def _copy_texts(source: Path, output: Path, merged: tuple[str, ...]) -> None:
    """Copy every file of A but the weights of the merged parts, and other weights of a part."""
    for name in list_folder(source):
        path = source / name
        if path.is_dir():
            (output / name).mkdir()
            for inner in list_folder(path):
                own = name in merged and inner.endswith(_SKIPPED)
                if (path / inner).is_file() and not own:
                    shutil.copyfile(path / inner, output / name / inner)
        elif path.suffix == ".json":
            shutil.copyfile(path, output / name)
