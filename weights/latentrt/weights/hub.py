"""Checkpoints of the Hugging Face hub: in its cache, or downloaded into it.

The cache is read without any library. Its layout is described in
huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import CheckpointError
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.component_specs import CLASSES
from latentrt.weights.weight_files import library_of, variants

_NAME: Final = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_MAIN: Final = "main"
_TEXTS: Final = (".json", ".txt")
_INDEX: Final = "model_index.json"
_FOLDERS: Final = (*CLASSES, "scheduler", "tokenizer", "tokenizer_2")


def is_hub_name(name: str) -> bool:
    """Whether a text is the name of a repository on the hub, as in `org/name`."""
    return _NAME.fullmatch(name) is not None


def cache_folder() -> Path:
    """The folder of the hub's cache, by the variables that its own library reads."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(Path(named or home / "hub").expanduser()))


def find_snapshot(name: str) -> Path | None:
    """The folder of a repository's main branch in the cache, None if it is not there."""
    repository = cache_folder() / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / _MAIN).read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    folder = repository / "snapshots" / commit
    return folder if re.fullmatch(r"[0-9a-f]+", commit) and folder.is_dir() else None


def open_hub(name: str, variant: str | None = None) -> Checkpoint:
    """A repository from the cache, where it is whole there, else downloaded.

    Raises `CheckpointError` where it can be had neither way, saying both.
    """
    folder = find_snapshot(name)
    lack = "it is not in the Hugging Face cache" if folder is None else _lack(folder, variant)
    if folder is None or lack is not None:
        folder = _download(name, variant, str(lack))
    return Checkpoint.open(folder, variant)


def _lack(folder: Path, variant: str | None) -> str | None:
    """What a snapshot lacks, None if it is whole: the cache may hold some of a repository."""
    try:
        checkpoint = Checkpoint.open(folder)
        for part in (p for p in _FOLDERS if p in checkpoint.index):
            if checkpoint.index[part] in (None, [None, None]):
                continue
            if part.startswith("tokenizer"):
                checkpoint.tokenizer(part)
                continue
            checkpoint.config(part)
            if part in CLASSES:
                paths = Checkpoint(folder, checkpoint.index, variant).files(part).paths
                missing = next((path for path in paths if not path.exists()), None)
                if missing is not None:
                    return f"its cache lacks {missing.relative_to(folder)}"
    except CheckpointError as error:
        return f"its cache is not whole: {error}"
    return None


def _download(name: str, variant: str | None, lack: str) -> Path:
    try:
        library: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        ways = f"put it there with `hf download {name}`, or install latentrt[hub] to download it"
        raise CheckpointError(name, f"no such folder or file, and {lack}: {ways}") from None
    try:
        wanted = wanted_files(library.list_repo_files(name), variant)
        found: str = library.snapshot_download(name, allow_patterns=wanted)
    except Exception as error:  # whatever the network, the hub or its library says
        first = str(error).strip().split("\n")[0] or type(error).__name__
        problem = f"no such folder or file, {lack}, and it cannot be downloaded: {first}"
        raise CheckpointError(name, problem) from error
    return Path(found)


def wanted_files(names: Sequence[str], variant: str | None) -> list[str]:
    """The files of a repository to download: configs, tokenizers, and one set of weights a part.

    They are those that the part's own library reads, and no pickles. A part without files of the
    variant is read without it.
    """
    wanted = [_INDEX] if _INDEX in names else []
    for folder in _FOLDERS:
        inside = [n.removeprefix(f"{folder}/") for n in names if n.startswith(f"{folder}/")]
        inside = [n for n in inside if "/" not in n]
        chosen = [n for n in inside if n.endswith(_TEXTS) and ".index" not in n]
        if folder in CLASSES:
            chosen += _weights(folder, inside, variant)
        wanted += [f"{folder}/{name}" for name in chosen]
    return wanted


def _weights(folder: str, names: Sequence[str], variant: str | None) -> list[str]:
    if variant is not None and variant not in variants(names):
        variant = None
    chosen = next((n for n in library_of(folder).names(variant) if n in names), None)
    if chosen is None or chosen.endswith(".safetensors"):
        return [] if chosen is None else [chosen]
    own = () if variant is None else (variant,)
    shards = [n for n in names if re.search(r"-\d+-of-\d+", n) and n.endswith(".safetensors")]
    return [chosen, *(n for n in shards if variants([n]) == own)]
