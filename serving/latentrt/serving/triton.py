"""A model repository for Triton's Python backend. Unverified: no Triton has run it.

Source: the schema `model_config.proto` of github.com/triton-inference-server/common.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from latentrt.bundle.errors import FileError, InputError, Unwritable
from latentrt.runtime import Size

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONFIG: Final = """\
# Written by latentrt. Unverified: no Triton has run it.
name: {name}
backend: "python"
max_batch_size: 0
input [
  {{ name: "request", data_type: TYPE_STRING, dims: [ 1 ] }}
]
output [
  {{ name: "images", data_type: TYPE_UINT8, dims: [ -1, -1, -1, 3 ] }},
  {{ name: "requests", data_type: TYPE_STRING, dims: [ -1 ] }}
]
model_transaction_policy {{ decoupled: true }}
# latentrt chooses the device.
instance_group [ {{ kind: KIND_MODEL, count: 1 }} ]
"""
_PARAMETER: Final = "parameters {{ key: {key}, value {{ string_value: {value} }} }}\n"


def write_repository(
    model: Path,
    folder: Path,
    *,
    name: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    sizes: Sequence[Size] = (),
    max_batch: int = 8,
    queue: int = 64,
) -> Path:
    """Write FOLDER/NAME with config.pbtxt and 1/model.py; gives that folder.

    `model` is a bundle or checkpoint, at the same path where Triton runs. `name` is by default the
    model's. `sizes` are compiled at the start: by default the model's own. Raises `InputError`,
    `FileError`, `Unwritable`.
    """
    if not model.exists():
        raise FileError(model, "no such bundle or checkpoint")
    name = name or model.name.removesuffix(".safetensors")
    if not _NAME.fullmatch(name):
        raise InputError("name", "letters, digits, dots, hyphens and underscores", name)
    values = {
        "model": str(model.resolve()),
        "engine": engine,
        "precision": precision,
        "sizes": " ".join(map(str, sizes)),
        "max_batch": str(max_batch),
        "queue": str(queue),
    }
    config = _CONFIG.format(name=_quoted(name)) + "".join(
        _PARAMETER.format(key=_quoted(key), value=_quoted(value)) for key, value in values.items()
    )
    code = files("latentrt.serving").joinpath("triton_model.py").read_bytes()
    place = folder / name
    try:
        (place / "1").mkdir(parents=True, exist_ok=True)
        (place / "1" / "model.py").write_bytes(code)
        (place / "config.pbtxt").write_text(config, encoding="utf-8")
    except OSError as error:
        raise Unwritable("folder", "a place to write", f"{place}: {error.strerror}") from error
    return place


def _quoted(text: str) -> str:
    """A text as protobuf's text format has it: JSON's escapes are among its own."""
    return json.dumps(text, ensure_ascii=False)
