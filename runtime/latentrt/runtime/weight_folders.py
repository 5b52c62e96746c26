"""Folders of weights: the textual inversions and LoRAs that a prompt names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from latentrt.bundle.errors import FileError
from latentrt.weights.contents import PICKLES, list_folder
from latentrt.weights.embedding import Embedding
from latentrt.weights.lora.lora import Lora
from latentrt.weights.lora.tags import lora_tags

ENDINGS = (".safetensors", *PICKLES)
"""The ends of the names of weights files; the first can be read."""


def weights_files(folder: Path) -> list[Path]:
    """The weights files of a folder, the readable ones first; raises `FileError` for no folder."""
    if not folder.is_dir():
        raise FileError(folder, "is not a folder of weights")
    paths = [folder / name for name in list_folder(folder)]
    # Before a pickle of the same name comes the file that can be read.
    return sorted(
        (path for path in paths if path.suffix in ENDINGS),
        key=lambda path: (ENDINGS.index(path.suffix), path.name),
    )


def named_embeddings(
    folder: Path, prompts: Iterable[str], taken: Iterable[str] = ()
) -> list[Embedding]:
    """The embeddings of a folder that a prompt names, except for tokens that are `taken`.

    A file is named by its name without its ending, as a whole word; capitals do not matter.
    Raises `FileError` and `InputError` as `Embedding` does.
    """
    tokens = set(taken)
    prompts = tuple(prompts)
    found: list[Embedding] = []
    for path in weights_files(folder):
        if path.stem not in tokens and any(_names(prompt, path.stem) for prompt in prompts):
            tokens.add(path.stem)
            found.append(Embedding(path))
    return found


def tagged_loras(folder: Path, prompts: Sequence[str]) -> tuple[list[Lora], list[str]]:
    """The LoRAs of a folder that prompts name as `<lora:NAME:SCALE>`, and prompts without tags.

    Raises `InputError` for a file that is not there.
    """
    found: list[Lora] = []
    without: list[str] = []
    for prompt in prompts:
        text, tags = lora_tags(prompt)
        without.append(text)
        found += [tag.open(folder) for tag in tags]
    return found, without


def _names(prompt: str, token: str) -> bool:
    pattern = rf"(?<!\w){re.escape(token)}(?!\w)"
    return re.search(pattern, prompt, re.IGNORECASE) is not None
