"""A random checkpoint as a folder of files, for libraries that read nothing else.

Needs what exporting needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import FILE_NAME
from latentrt.bundle.publish import publishing
from latentrt.bundle.tensors import Layout, write_tensors
from latentrt.weights.component_specs import CLASSES
from latentrt.weights.families import family_of

_RANDOM: Final = "random:"
_WEIGHTS: Final = {"diffusers": "diffusion_pytorch_model.safetensors"}
_TEXT_WEIGHTS: Final = "model.safetensors"


def checkpoint_folder(source: Path | str, folder: Path) -> Path:
    """The diffusers folder of a checkpoint: its own, or one that is written to `folder` once.

    `source` is such a folder, a name such as `random:sd15`, or the bundle of one; the written
    tensors are float32 and those that exporting that name stores. Raises `InputError` for the
    bundle of a checkpoint that is not random: that one lies elsewhere, and only its owner knows
    where.
    """
    if _is_folder(source):
        return Path(source)
    name = _name(source)
    if not (folder / "model_index.json").is_file():
        with publishing(folder, force=True) as fresh:
            _write(name, fresh)
    return folder


def check_source(source: Path | str) -> None:
    """Raise what `checkpoint_folder` would raise for a source, without writing anything."""
    if not _is_folder(source):
        _name(source)


def _is_folder(source: Path | str) -> bool:
    return (Path(source) / "model_index.json").is_file()


def _name(source: Path | str) -> str:
    if (Path(source) / FILE_NAME).is_file():
        source = Bundle.open(source).manifest.source
    if not str(source).startswith(_RANDOM):
        expected = f"a diffusers folder, or {_RANDOM}sd15 and its like"
        raise InputError("checkpoint", expected, str(source))
    return str(source)


def _write(name: str, folder: Path) -> None:
    from latentrt.export.synthetic import SyntheticCheckpoint

    source = SyntheticCheckpoint.named(name)
    family = family_of(source)
    for part in family.folders:
        _write_part(source, part, folder / part)
    for part in family.tokenizers:
        (folder / part).mkdir()
        for file, content in source.tokenizer(part).items():
            (folder / part / file).write_bytes(content)
    scheduler = source.config("scheduler")
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index: dict[str, Any] = dict(source.index)
    index |= {part: _owner(part) for part in family.folders}
    index |= {part: ["transformers", "CLIPTokenizer"] for part in family.tokenizers}
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    if family.text_encoders == ("text_encoder",):
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index["requires_safety_checker"] = False
    _write_json(folder / "model_index.json", index)


def _write_part(source: Any, part: str, folder: Path) -> None:
    folder.mkdir()
    library, class_name = _owner(part)
    tensors = source.tensors(part)
    layout = Layout.of(
        {name: (tensors.entry(name).dtype, tensors.entry(name).shape) for name in tensors}
    )
    file = _WEIGHTS.get(library, _TEXT_WEIGHTS)
    write_tensors(folder / file, layout, tensors.__getitem__)
    config = dict(source.config(part))
    if library == "transformers":
        config = {"architectures": [class_name], "model_type": "clip_text_model", **config}
    _write_json(folder / "config.json", config)


def _owner(part: str) -> list[str]:
    library = "transformers" if part.startswith("text_encoder") else "diffusers"
    return [library, CLASSES[part]]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(value), indent=2) + "\n", encoding="utf-8")
