"""The family that a LoRA was made for, as far as its names, shapes and metadata say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from latentrt.bundle.tensors import TensorFile

_WIDTHS: Final[Mapping[int, str]] = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    2048: "Stable Diffusion XL",
    1280: "the refiner of Stable Diffusion XL",
}
"""Families by the width of the text that their U-Nets take."""
_XL: Final = _WIDTHS[2048]
_STATED: Final = (
    ("stable-diffusion-v1", _WIDTHS[768]),
    ("sd_v1", _WIDTHS[768]),
    ("stable-diffusion-v2", _WIDTHS[1024]),
    ("sd_v2", _WIDTHS[1024]),
    ("stable-diffusion-xl", _XL),
    ("sdxl", _XL),
    ("stable-diffusion-3", "Stable Diffusion 3"),
    ("sd3", "Stable Diffusion 3"),
    ("flux", "FLUX"),
)
"""Beginnings of what trainers write into a file's metadata."""
_MARKS: Final = (
    ("double_blocks", "FLUX"),
    ("single_transformer_blocks", "FLUX"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("lora_te2_", _XL),
    ("text_encoder_2.", _XL),
)
"""Parts of keys that one family alone has."""
_TEXT: Final = ("attn2.to_k", "attn2_to_k", "attn2.processor.to_k")
_DOWN: Final = ("down.weight", "lora_A.weight", "lora_A.default.weight", "hada_w1_b")

Shapes = Mapping[str, tuple[int, ...]]


def family_of_lora(file: TensorFile) -> str | None:
    """The name of the family that a file was made for, None if nothing tells."""
    for field in ("modelspec.architecture", "ss_base_model_version"):
        stated = file.metadata.get(field, "").lower()
        for beginning, family in _STATED:
            if stated.startswith(beginning):
                return family
    for mark, family in _MARKS:
        if any(mark in key for key in file):
            return family
    for key, entry in file.entries.items():
        if any(name in key for name in _TEXT) and key.endswith(_DOWN) and len(entry.shape) > 1:
            return _named(entry.shape[1])
    return None


def family_of_base(base: Mapping[str, Shapes]) -> str | None:
    """The name of a model's family, None if it has no U-Net that takes text."""
    shapes = base.get("unet", {}).items()
    width = next((shape[1] for name, shape in shapes if name.endswith("attn2.to_k.weight")), None)
    if width in _WIDTHS or "text_encoder_2" not in base:
        return None if width is None else _named(width)
    return _XL


def _named(width: int) -> str:
    return _WIDTHS.get(width, f"a model with text of width {width}")
