"""Write a random checkpoint, such as random:sd15, as a diffusers folder, for peers to load.

    python benchmarks/scripts/random_checkpoint.py random:sd15 build/sd15-checkpoint

The tensors are float32, and those that exporting the name stores. Needs what exporting needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.publish import publishing
from latentrt.bundle.tensors import Layout, write_tensors
from latentrt.export.synthetic import SyntheticCheckpoint
from latentrt.weights.component_specs import CLASSES
from latentrt.weights.families import family_of

_FILES: Final = {
    "diffusers": "diffusion_pytorch_model.safetensors",
    "transformers": "model.safetensors",
}


def write(name: str, folder: Path) -> None:
    """Write the checkpoint of a name; what is there stays."""
    if (folder / "model_index.json").is_file():
        return
    with publishing(folder, force=True) as fresh:
        _write(name, fresh)


def _write(name: str, folder: Path) -> None:
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


def _write_part(source: SyntheticCheckpoint, part: str, folder: Path) -> None:
    folder.mkdir()
    library, class_name = _owner(part)
    tensors = source.tensors(part)
    entries = {name: tensors.entry(name) for name in tensors}
    layout = Layout.of({name: (entry.dtype, entry.shape) for name, entry in entries.items()})
    write_tensors(folder / _FILES[library], layout, tensors.__getitem__)
    config = dict(source.config(part))
    if library == "transformers":
        config = {"architectures": [class_name], "model_type": "clip_text_model", **config}
    _write_json(folder / "config.json", config)


def _owner(part: str) -> list[str]:
    library = "transformers" if part.startswith("text_encoder") else "diffusers"
    return [library, CLASSES[part]]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(value), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: random_checkpoint.py NAME FOLDER")
    write(sys.argv[1], Path(sys.argv[2]))
