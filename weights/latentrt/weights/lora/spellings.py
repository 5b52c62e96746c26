"""Every spelling of a layer in LoRA files, made from its canonical name.

A key of a file is looked up among these; no key is ever rewritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from latentrt.weights.lora.unet_blocks import original_names

ALPHA: Final = "alpha"


def _endings() -> dict[str, str]:
    roles: dict[str, str] = {".alpha": ALPHA}
    for side, letter in (("up", "B"), ("down", "A")):
        for ending in (
            f".lora_{side}.weight",
            f".lora_{letter}.weight",
            f".lora_{letter}.default.weight",
            f".lora.{side}.weight",
            f"_lora.{side}.weight",
            f".lora_linear_layer.{side}.weight",
        ):
            roles[ending] = f"lora_{side}"
    roles[".lora_mid.weight"] = "lora_mid"
    for ending in ("", ".weight", ".default", ".default.weight"):
        roles[f".lora_magnitude_vector{ending}"] = "lora_magnitude_vector"
    for role in (
        "dora_scale",
        *(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
        *(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
        "w_norm",
        "b_norm",
        "diff",
        "diff_b",
    ):
        for ending in ("", ".default"):
            roles[f".{role}{ending}"] = role
    return roles


ENDINGS: Final[Mapping[str, str]] = MappingProxyType(_endings())
"""What may follow a layer's spelling, and the role of that tensor."""

UNSUPPORTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".oft_blocks": "OFT",
        ".oft_diag": "OFT",
        ".oft_R.weight": "OFT",
        ".on_input": "IA3",
        ".ia3_l": "IA3",
        ".a1.weight": "GLoRA",
        ".hada_w1.weight": "an unknown LyCORIS kind",
        ".lora_embedding_A": "a LoRA of a token table",
        ".lora_embedding_B": "a LoRA of a token table",
        ".lora_B.bias": "a LoRA with biases",
    }
)
"""Endings of kinds that are not supported."""

_ATTENTION: Final[Mapping[str, str]] = MappingProxyType(
    {
        "self_attn.q_proj": "self_attn.to_q",
        "self_attn.k_proj": "self_attn.to_k",
        "self_attn.v_proj": "self_attn.to_v",
        "self_attn.out_proj": "self_attn.to_out",
    }
)
"""Names that older versions of diffusers gave a text encoder's attention layers."""


@dataclass(frozen=True, slots=True)
class Target:
    """A layer of a component: the folder and the layer's canonical name."""

    folder: str
    layer: str


def spellings(layers: Mapping[str, Collection[str]]) -> dict[str, tuple[Target, ...]]:
    """The layers that each spelling may mean, from the layers of each folder.

    A spelling without the component's name may mean a layer of several text encoders.
    """
    found: dict[str, tuple[Target, ...]] = {}
    for folder, names in layers.items():
        of = _unet(names) if folder == "unet" else _text_encoder(folder, names)
        for spelling, layer in of:
            target = Target(folder, layer)
            targets = found.get(spelling, ())
            if target not in targets:
                found[spelling] = (*targets, target)
    return found


def _unet(layers: Collection[str]) -> Iterator[tuple[str, str]]:
    dotted = ("", "unet.", "base_model.model.", "base_model.model.unet.")
    original = ("diffusion_model.", "model.diffusion_model.")
    flat = ("lora_unet_", "lycoris_", "lycoris_unet_")
    originals = original_names(layers)
    for layer in layers:
        names = _unet_names(layer)
        olds = _unet_names(originals[layer]) if layer in originals else ()
        yield from _spelt(layer, names, (*dotted, *original), flat)
        yield from _spelt(layer, olds, (*dotted, *original), flat)


def _unet_names(name: str) -> tuple[str, ...]:
    """A name, and those that older versions of diffusers gave attention layers."""
    block, dot, last = name.removesuffix(".0").rpartition(".")
    if last not in ("to_q", "to_k", "to_v", "to_out"):
        return (name,)
    short = f"{block}{dot}{last}"
    return tuple(dict.fromkeys((name, short, f"{block}{dot}processor.{last}")))


def _text_encoder(folder: str, layers: Collection[str]) -> Iterator[tuple[str, str]]:
    dotted = ("", f"{folder}.", "base_model.model.", f"base_model.model.{folder}.")
    second = folder.endswith("_2")
    flat = ("lora_te2_",) if second else ("lora_te_", "lora_te1_")
    for layer in layers:
        names = [layer]
        for now, before in _ATTENTION.items():
            names += [layer.replace(now, before)] if now in layer else []
        names += [name.removeprefix("text_model.") for name in names]
        prefixes = (*flat, "lycoris_", f"lycoris_{folder}_")
        yield from _spelt(layer, tuple(dict.fromkeys(names)), dotted, prefixes)


def _spelt(
    layer: str, names: Sequence[str], dotted: Sequence[str], flat: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for name in names:
        for prefix in dotted:
            yield f"{prefix}{name}", layer
        joined = name.replace(".", "_")
        for prefix in flat:
            yield f"{prefix}{joined}", layer
