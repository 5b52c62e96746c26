"""A LoRA as users give it: a file, and how strongly it counts where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from latentrt.bundle.checks import as_path, flag
from latentrt.bundle.errors import WeightsError
from latentrt.bundle.files import open_file
from latentrt.weights.lora.blocks import number, parse_blocks


@dataclass(frozen=True, slots=True)
class Lora:
    """A `.safetensors` file with a LoRA, LoHa, LoKr, DoRA or full difference, and its scales.

    `scale` is that of every component; `unet` and `text_encoder` (both text encoders) replace it.
    A negative scale subtracts. `blocks` multiply the U-Net's scale by block. They are a mapping
    such as {"down.1": 0.5, "mid": 0}, or nested as in diffusers' `set_adapters`. A list has the
    12, 17, 20 or 26 numbers of web UIs. They are kept as pairs. `partial` allows keys that match
    no layer.

    Raises `InputError` for a scale that is no finite number and for an unknown block.
    """

    path: Path
    scale: float = 1.0
    unet: float | None = None
    text_encoder: float | None = None
    blocks: Mapping[str, Any] | Sequence[Any] | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        """Convert the arguments to their own types."""
        scales = (("unet", self.unet), ("text_encoder", self.text_encoder))
        values: dict[str, object] = {
            "path": as_path("path", self.path),
            "scale": number("scale", self.scale),
            **{name: None if value is None else number(name, value) for name, value in scales},
            "blocks": parse_blocks(self.blocks),
            "partial": flag("partial", self.partial),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def scale_of(self, folder: str) -> float:
        """The scale of a component, by its folder, before that of a block."""
        own = self.unet if folder == "unet" else self.text_encoder
        scale = self.scale if own is None else own
        return scale if folder == "unet" else scale * dict(parse_blocks(self.blocks)).get("BASE", 1)

    def sha256(self) -> str:
        """SHA-256 of the file; raises `WeightsError` if it cannot be read."""
        try:
            found = self.path.stat()
            return _sha256(self.path, found.st_size, found.st_mtime_ns)
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
            raise WeightsError(self.path, problem) from error


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    # Requests with the same LoRA come again and again; a changed file has another size or time.
    del size, changed
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def weights_key(loras: Iterable[Lora]) -> str:
    """SHA-256 over the files' hashes and the scales, in the order of the list.

    Equal keys mean equal changes of one base. Names and places of the files do not count.
    """
    parts = [
        [
            lora.sha256(),
            [lora.scale_of(folder) for folder in ("unet", "text_encoder")],
            [list(pair) for pair in parse_blocks(lora.blocks) if pair[0] != "BASE"],
        ]
        for lora in loras
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
