"""Textual inversions of a command line: files that are named, and those of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime import Embedding
from latentrt.weights.contents import PICKLES, list_folder

_ENDINGS = (".safetensors", *PICKLES)


def embeddings_of(
    named: Sequence[str], folder: Path | None, prompts: Iterable[str]
) -> list[Embedding]:
    """The embeddings named as FILE or FILE=TOKEN, then those of a folder that a prompt names.

    A file of the folder is named by its name without its ending, as a whole word; capitals do not
    matter. Raises `FileError` and `InputError` as `Embedding` does.
    """
    found = [_named(text) for text in named]
    tokens = {embedding.token for embedding in found}
    prompts = tuple(prompts)
    for path in () if folder is None else _files(folder):
        if path.stem not in tokens and any(_names(prompt, path.stem) for prompt in prompts):
            tokens.add(path.stem)
            found.append(Embedding(path))
    return found


def recorded_embeddings(
    recorded: Sequence[Any], given: Sequence[Embedding], folder: Path | None
) -> list[Embedding]:
    """The embeddings of a picture's JSON, among those given and in a folder, by name and hash.

    Raises `InputError` naming the file that is not there, or that is another.
    """
    return [_recorded(each, given, folder) for each in recorded]


def _recorded(fields: Any, given: Sequence[Embedding], folder: Path | None) -> Embedding:
    if not isinstance(fields, Mapping):
        raise InputError("weights", "JSON objects", type(fields).__name__)
    stated = cast("Mapping[str, object]", fields)
    name, token, sha256 = (str(stated.get(key)) for key in ("file", "token", "sha256"))
    for embedding in given:
        if embedding.sha256 == sha256:
            return Embedding(embedding.path, token)
    expected = f"the picture's file {name!r} (SHA-256 {sha256}), by --embedding or --embedding-dir"
    if folder is None or Path(name).name != name or not (folder / name).is_file():
        raise InputError("embedding", expected, "none")
    embedding = Embedding(folder / name, token)
    if embedding.sha256 != sha256:
        raise InputError("embedding", expected, f"another file (SHA-256 {embedding.sha256})")
    return embedding


def _named(text: str) -> Embedding:
    path, equals, token = text.rpartition("=")
    if not equals or Path(text).is_file():
        return Embedding(text)
    return Embedding(path, token)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileError(folder, "is not a folder of embeddings")
    paths = [folder / name for name in list_folder(folder)]
    # Before a pickle of the same name comes the file that can be read.
    return sorted(
        (path for path in paths if path.suffix in _ENDINGS),
        key=lambda path: (_ENDINGS.index(path.suffix), path.name),
    )


def _names(prompt: str, token: str) -> bool:
    pattern = rf"(?<!\w){re.escape(token)}(?!\w)"
    return re.search(pattern, prompt, re.IGNORECASE) is not None
