"""Which files hold the weights of a part: the ones that the part's own library would read.

diffusers reads the index of shards before a whole file, transformers the whole file first. Sources:
`ModelMixin.from_pretrained` of diffusers, `_get_resolved_checkpoint_files` of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from latentrt.bundle.errors import CheckpointError
from latentrt.weights.contents import CONVERT, PICKLES, UNFINISHED, list_folder, read_json

_WHOLE: Final = ".safetensors"
_INDEX: Final = ".safetensors.index.json"
_VARIANT: Final = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:-\d+-of-\d+)?(?:\.(?P<a>[^.]+?)(?:-\d+-of-\d+)?)?\.(?:safetensors|bin)"
    r"(?:(?:\.(?P<b>[^.]+))?\.index(?:\.(?P<c>[^.]+))?\.json)?"
)


@dataclass(frozen=True, slots=True)
class Library:
    """How a library names weights: `stem` before the suffix, and whether shards come first."""

    name: str
    stem: str
    shards_first: bool

    def names(self, variant: str | None) -> tuple[str, ...]:
        """The files that it looks for; it reads the first that exists.

        diffusers still reads the older of two names for a variant's index, after the newer.
        """
        of = "" if variant is None else f".{variant}"
        whole, shards = f"{self.stem}{of}{_WHOLE}", f"{self.stem}{_WHOLE}.index{of}.json"
        if not self.shards_first:
            return whole, shards
        older = () if variant is None else (f"{self.stem}{_WHOLE}{of}.index.json",)
        return (shards, *older, whole)

    def plain(self) -> str:
        """The name of a whole file without a variant."""
        return f"{self.stem}{_WHOLE}"


DIFFUSERS: Final = Library("diffusers", "diffusion_pytorch_model", shards_first=True)
TRANSFORMERS: Final = Library("transformers", "model", shards_first=False)


def library_of(folder: str) -> Library:
    """The library that a part belongs to."""
    own = folder.startswith(("text_encoder", "tokenizer"))
    return TRANSFORMERS if own else DIFFUSERS


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files that a part's weights are read from.

    `chosen` is the whole file, or the index of `paths`; `others` names the weights beside them that
    are not read; `variant` is the one that was read, None for the plain weights.
    """

    chosen: Path
    paths: tuple[Path, ...]
    others: tuple[str, ...]
    variant: str | None

    def notes(self, wanted: str | None) -> tuple[str, ...]:
        """Notes on the choice, a sentence each; empty if there was no choice.

        `wanted` is the variant that was asked for.
        """
        folder, read = self.chosen.parent.name, self.chosen.name
        said: list[str] = []
        if wanted is not None and self.variant is None:
            said.append(f"{folder}: has no variant {wanted!r}; {read} was read")
        if self.others:
            unread = ", ".join(self.others)
            said.append(f"{folder}: {read} was read, as {library_of(folder).name} does")
            said[-1] += f"; not read: {unread}"
        return tuple(said)


def find_weights(
    where: Path, variant: str | None, stated: object = None, *, library: Library | None = None
) -> WeightFiles:
    """The files of a part's folder that its library reads, with or without a variant's name.

    A part without files of the variant is read without it, as pipelines of diffusers do. `stated`
    is the file that the part's config names itself, if any; `library` reads it, by default the one
    that the folder's name says. Raises `CheckpointError` if no file can
    be read, with the files that are there and what to do.
    """
    names = list_folder(where)
    library = library or library_of(where.name)
    if variant is not None and variant not in variants(names):
        variant = None
    if stated is not None:
        chosen, variant = _beside(where / "config.json", stated, (_WHOLE, _INDEX)), None
    else:
        found = next((name for name in library.names(variant) if name in names), None)
        if found is None:
            raise _unreadable(where, names, variant, library)
        chosen = found
    path = where / chosen
    paths = (path,) if chosen.endswith(_WHOLE) else _shards(path)
    read = {chosen, *(p.name for p in paths)}
    others = tuple(n for n in names if n not in read and _is_weights(n))
    return WeightFiles(path, paths, others, variant)


def variants(names: Iterable[str]) -> tuple[str, ...]:
    """The variants that files in a part's folder are named after, pickled ones too."""
    matches = (_VARIANT.fullmatch(name) for name in names)
    found = {m["a"] or m["b"] or m["c"] for m in matches if m is not None}
    return tuple(sorted(name for name in found if name))


def _unreadable(
    where: Path, names: Sequence[str], variant: str | None, library: Library
) -> CheckpointError:
    pickles = [n for n in names if n.endswith(PICKLES)]
    if variant is not None:
        pickles = [n for n in pickles if variant in variants([n])]
    readable = {v: next((n for n in library.names(v) if n in names), None) for v in variants(names)}
    offers = [f"{name} with --variant {v}" for v, name in readable.items() if name is not None]
    if pickles:
        offer = f"; or read {' or '.join(offers)}" if offers and variant is None else ""
        return CheckpointError(where / pickles[0], f"{CONVERT}{offer}")
    missing = library.names(variant)[-1] if variant is not None else library.plain()
    problem = "is missing"
    others = [n for n in names if n.endswith((_WHOLE, _INDEX))]
    unfinished = [n for n in names if n.endswith(UNFINISHED)]
    if offers:
        problem += f"; read {' or '.join(offers)}"
    elif unfinished:
        problem += f"; {unfinished[0]} is an unfinished download: download it again"
    elif others:
        problem += f"; rename {others[0]}, a name that {library.name} does not read"
    return CheckpointError(where / missing, problem)


def _shards(index: Path) -> tuple[Path, ...]:
    places: object = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(index, "has no weight_map")
    shards = cast("dict[str, object]", places).values()
    names = sorted({_beside(index, name, (_WHOLE,)) for name in shards})
    return tuple(index.parent / name for name in names)


def _beside(index: Path, name: object, suffixes: tuple[str, ...]) -> str:
    text = str(name)
    if set(text) & set("/\\:\0") or not text.endswith(suffixes):
        raise CheckpointError(index, f"names a shard {text!r} that is not beside it")
    return text


def _is_weights(name: str) -> bool:
    return name.endswith((_WHOLE, *PICKLES)) or ".index." in name
