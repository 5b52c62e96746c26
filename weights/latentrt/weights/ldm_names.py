"""How the original code spells the canonical names of a U-Net's and a VAE's tensors.

The names are made from the canonical ones, which are known. A spelling gives the names under which
a tensor may be stored, the usual one first. Sources: `openaimodel.py` and `model.py` of
github.com/CompVis/stable-diffusion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Spelled:
    """The stored name of a tensor.

    `third` is the tensor's place in a stored one that holds three along the first axis, None if the
    stored tensor is the whole. `transposed`: the stored matrix has the other order of axes.
    """

    name: str
    third: int | None = None
    transposed: bool = False


Spelling = Callable[[str], tuple[Spelled, ...]]
"""From a canonical name to the names under which it may be stored."""


def prefixed(prefix: str, spelling: Spelling) -> Spelling:
    """The same spelling, with a prefix before every name."""
    return lambda name: tuple(replace(s, name=prefix + s.name) for s in spelling(name))


def averaged(spelling: Spelling) -> Spelling:
    """The names of a U-Net's exponential moving averages: `model_ema.` and no dots after it."""
    return lambda name: tuple(
        replace(s, name=f"model_ema.diffusion_model{s.name.replace('.', '')}")
        for s in spelling(name)
    )


def as_canonical(name: str) -> tuple[Spelled, ...]:
    """Canonical names as they are."""
    return (Spelled(name),)


_UNET_ENDS: Final[Mapping[str, str]] = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESIDUAL: Final[Mapping[str, str]] = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_IN_BLOCK: Final = re.compile(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)\.(weight|bias)")
_IN_MIDDLE: Final = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)\.(weight|bias)")


def unet_spelling(layers: int) -> Spelling:
    """The spelling of a U-Net whose blocks have this many layers.

    The original code counts layers and changes of size through all blocks.
    """

    def spell(name: str) -> tuple[Spelled, ...]:
        if found := _IN_BLOCK.fullmatch(name):
            names = _in_block(found, layers)
        elif found := _IN_MIDDLE.fullmatch(name):
            kind, i, layer, end = found.groups()
            attention = kind == "attentions"
            inner = layer if attention else _UNET_RESIDUAL[layer]
            names = (f"middle_block.{1 if attention else 2 * int(i)}.{inner}.{end}",)
        else:
            layer, _, end = name.rpartition(".")
            names = (f"{_UNET_ENDS[layer]}.{end}",)
        return tuple(Spelled(n) for n in names)

    return spell


def _in_block(found: re.Match[str], layers: int) -> tuple[str, ...]:
    half, level, kind, i, layer, end = found.groups()
    before = int(level) * (layers + 1)
    if kind == "downsamplers":
        return (f"input_blocks.{before + layers + 1}.0.op.{end}",)
    if kind == "upsamplers":
        # It comes after an attention, where the block has one.
        block = f"output_blocks.{before + layers}"
        return (f"{block}.2.{layer}.{end}", f"{block}.1.{layer}.{end}")
    number = before + int(i)
    block = f"input_blocks.{number + 1}" if half == "down" else f"output_blocks.{number}"
    if kind == "attentions":
        return (f"{block}.1.{layer}.{end}",)
    return (f"{block}.0.{_UNET_RESIDUAL[layer]}.{end}",)


_HINT: Final = "controlnet_cond_embedding."
_SKIP: Final = re.compile(r"controlnet_down_blocks\.(\d+)\.(weight|bias)")


def controlnet_spelling(layers: int, changes: int) -> Spelling:
    """The spelling of a ControlNet whose blocks have this many layers.

    `changes` is the number of convolutions between the first and the last of those that encode the
    picture. Source: `cldm.py` of github.com/lllyasviel/ControlNet.
    """
    lower = unet_spelling(layers)

    def spell(name: str) -> tuple[Spelled, ...]:
        if name.startswith(_HINT):
            *place, end = name.removeprefix(_HINT).split(".")
            ends = {"conv_in": 0, "conv_out": changes + 1}
            number = ends[place[0]] if len(place) == 1 else int(place[1]) + 1
            return (Spelled(f"input_hint_block.{2 * number}.{end}"),)
        if found := _SKIP.fullmatch(name):
            return (Spelled(f"zero_convs.{found[1]}.0.{found[2]}"),)
        if name.startswith("controlnet_mid_block."):
            return (Spelled(f"middle_block_out.0.{name.rpartition('.')[2]}"),)
        return lower(name)

    return spell


_VAE_ATTENTION: Final[Mapping[str, str]] = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OLD_ATTENTION: Final[Mapping[str, str]] = {
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "proj_attn",
}
"""What diffusers before version 0.14 called the layers of a VAE's attention."""
_VAE_RENAMED: Final[Mapping[str, str]] = {"conv_norm_out": "norm_out"}
_VAE_BLOCK: Final = re.compile(
    r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(\w+)\.(weight|bias)"
)
_VAE_MIDDLE: Final = re.compile(
    r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)\.(weight|bias)"
)


def vae_spelling(levels: int) -> Spelling:
    """The spelling of a VAE of this many levels, which the decoder counts from the last."""

    def spell(name: str) -> tuple[Spelled, ...]:
        if found := _VAE_BLOCK.fullmatch(name):
            half, way, level, kind, i, layer, end = found.groups()
            number = int(level) if way == "down" else levels - 1 - int(level)
            where = f"{half}.{way}.{number}"
            inner = "nin_shortcut" if layer == "conv_shortcut" else layer
            sized = f"{way}sample.{layer}"
            spelled = f"{where}.{f'block.{i}.{inner}' if kind == 'resnets' else sized}.{end}"
        elif found := _VAE_MIDDLE.fullmatch(name):
            half, kind, i, layer, end = found.groups()
            attention = kind == "attentions"
            inner = (
                f"attn_1.{_VAE_ATTENTION[layer]}" if attention else f"block_{int(i) + 1}.{layer}"
            )
            spelled = f"{half}.mid.{inner}.{end}"
        else:
            where, _, end = name.rpartition(".")
            half, _, layer = where.rpartition(".")
            spelled = ".".join(part for part in (half, _VAE_RENAMED.get(layer, layer), end) if part)
        return (Spelled(spelled),)

    return spell


def diffusers_vae(name: str) -> tuple[Spelled, ...]:
    """The names of a VAE in diffusers, also the old ones of its attention."""
    found = _VAE_MIDDLE.fullmatch(name)
    if found is None or found[4] not in OLD_ATTENTION:
        return (Spelled(name),)
    half, kind, i, layer, end = found.groups()
    old = f"{half}.mid_block.{kind}.{i}.{OLD_ATTENTION[layer]}.{end}"
    return (Spelled(name), Spelled(old))
