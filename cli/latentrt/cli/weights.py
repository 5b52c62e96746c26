"""Textual inversions and LoRAs of a command line: files that are named, and those of a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from latentrt.bundle.errors import InputError
from latentrt.runtime import Embedding, Lora
from latentrt.runtime.weight_folders import named_embeddings, tagged_loras
from latentrt.runtime.weights_fields import Weights, lora_of


def embeddings_of(
    named: Sequence[str], folder: Path | None, prompts: Iterable[str]
) -> list[Embedding]:
    """The embeddings named as FILE or FILE=TOKEN, then those of a folder that a prompt names.

    A file of the folder is named by its name without its ending, as a whole word; capitals do not
    matter. Raises `FileError` and `InputError` as `Embedding` does.
    """
    found = [_named(text) for text in named]
    if folder is None:
        return found
    return found + named_embeddings(folder, prompts, [each.token for each in found])


def loras_of(
    named: Sequence[str], folder: Path | None, prompts: Sequence[str]
) -> tuple[list[Lora], list[str]]:
    """The LoRAs named as FILE or FILE=SCALES, then those of tags; and the prompts without tags.

    SCALES are a scale, then NAME:SCALE for the U-Net ("unet"), the text encoders ("text_encoder")
    or a block ("up.1"), with commas between. `<lora:NAME:SCALE>` names a file of the folder. Raises
    `InputError` for a scale that is no number, and for a file that is not there.
    """
    found = [_lora(text) for text in named]
    if folder is None:
        return found, list(prompts)
    tagged, without = tagged_loras(folder, prompts)
    return found + tagged, without


def _lora(text: str) -> Lora:
    path, equals, scales = text.rpartition("=")
    if not equals or Path(text).is_file():
        return Lora(_file("lora", text))
    try:
        scale, named = _scales(scales)
    except ValueError:
        raise InputError("lora", "FILE, FILE=SCALE or FILE=SCALE,up.1:SCALE", text) from None
    unet, encoder = named.pop("unet", None), named.pop("text_encoder", None)
    return Lora(_file("lora", path), scale, unet=unet, text_encoder=encoder, blocks=named or None)


def _scales(text: str) -> tuple[float, dict[str, float]]:
    """The scale, 1 if none is given, and those by name; raises `ValueError`."""
    first, *rest = text.split(",")
    scale, parts = (1.0, [first, *rest]) if ":" in first else (float(first), rest)
    named: dict[str, float] = {}
    for part in parts:
        name, colon, number = part.partition(":")
        if not colon or name in named:
            raise ValueError(part)
        named[name] = float(number)
    return scale, named


def _file(option: str, text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise InputError(option, "a file", f"{path}, which is not there")
    return path


def recorded_weights(
    recorded: Sequence[Any], given: Sequence[Weights], folders: Mapping[str, Path | None]
) -> list[Weights]:
    """The weights of a picture's JSON, among those given and in folders, by name and hash.

    `folders` are those of each kind, "embedding" and "lora". Raises `InputError` naming the file
    that is not there, or that is another.
    """
    return [_recorded(each, given, folders) for each in recorded]


def _recorded(fields: Any, given: Sequence[Weights], folders: Mapping[str, Path | None]) -> Weights:
    if not isinstance(fields, Mapping):
        raise InputError("weights", "JSON objects", type(fields).__name__)
    stated = dict(cast("Mapping[str, Any]", fields))
    kind, name, sha256 = (str(stated.get(key)) for key in ("kind", "file", "sha256"))
    if kind not in folders:
        raise InputError("weights", f"one of {', '.join(folders)}", kind)
    for each in given:
        if _sha256(each) == sha256:
            return _as(each.path, stated)
    expected = f"the picture's file {name!r} (SHA-256 {sha256}), by --{kind} or --{kind}-dir"
    folder = folders[kind]
    if folder is None or Path(name).name != name or not (folder / name).is_file():
        raise InputError(kind, expected, "none")
    found = _as(folder / name, stated)
    if _sha256(found) != sha256:
        raise InputError(kind, expected, f"another file (SHA-256 {_sha256(found)})")
    return found


def _as(path: Path, fields: dict[str, Any]) -> Weights:
    if fields.get("kind") == "lora":
        return lora_of(Lora(path), fields)
    return Embedding(path, str(fields.get("token")))


def _sha256(weights: Weights) -> str:
    return weights.sha256() if isinstance(weights, Lora) else weights.sha256


def _named(text: str) -> Embedding:
    path, equals, token = text.rpartition("=")
    if not equals or Path(text).is_file():
        return Embedding(text)
    return Embedding(path, token)
