"""LoRAs that a prompt names as web UIs do: `<lora:NAME:SCALE>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from latentrt.bundle.errors import InputError
from latentrt.weights.lora.lora import Lora

_TAG: Final = re.compile(r"<lora:([^:<>]+)((?::[^:<>]*)*)>")
_ENDING: Final = ".safetensors"


@dataclass(frozen=True, slots=True)
class LoraTag:
    """One tag: a file's name without its ending, and the scales of both halves."""

    name: str
    text_encoder: float = 1.0
    unet: float = 1.0

    def open(self, folder: Path) -> Lora:
        """The LoRA in a folder; raises `InputError` naming the file that is not there."""
        path = folder / f"{self.name}{_ENDING}"
        if Path(self.name).name != self.name or not path.is_file():
            raise InputError("lora", f"a file {self.name}{_ENDING} in {folder}", "none")
        if self.text_encoder == self.unet:
            return Lora(path, self.unet)
        return Lora(path, self.unet, text_encoder=self.text_encoder)


def lora_tags(prompt: str) -> tuple[str, tuple[LoraTag, ...]]:
    """A prompt without its tags, and the tags.

    One number is the scale of all; of two the first is the text encoders', the second the U-Net's.
    Raises `InputError` for a scale that is no number.
    """
    tags = tuple(_tag(match[1], match[2]) for match in _TAG.finditer(prompt))
    return _TAG.sub("", prompt).strip() if tags else prompt, tags


def _tag(name: str, text: str) -> LoraTag:
    try:
        numbers = [float(word) for word in text.split(":")[1:]]
    except ValueError:
        numbers = [1.0] * 3
    if len(numbers) > 2:
        raise InputError("prompt", "<lora:NAME:SCALE>", f"<lora:{name}{text}>")
    return LoraTag(name.strip(), *(numbers or [1.0])[:1], *(numbers or [1.0])[-1:])
