"""The original names of a U-Net's layers, from its canonical ones.

The blocks are counted as the names have them, so any depth of blocks is named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

_TOP: Final[Mapping[str, str]] = MappingProxyType(
    {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
)
_RESNET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
)


def original_names(layers: Collection[str]) -> dict[str, str]:
    """The original name of every layer of a U-Net that has one, by its canonical name."""
    blocks = _blocks(frozenset(_block_of(layer) for layer in layers))
    found: dict[str, str] = {}
    for layer in layers:
        block = _block_of(layer)
        rest = layer[len(block) + 1 :]
        if layer in _TOP:
            found[layer] = _TOP[layer]
        elif block in blocks:
            inner = _RESNET.get(rest, rest) if ".resnets." in block else rest
            found[layer] = f"{blocks[block]}.{inner}" if inner else blocks[block]
    return found


def _block_of(layer: str) -> str:
    """The part of a layer's name that names a resnet, a transformer or a sampler."""
    words = layer.split(".")
    length = 3 if words[0] == "mid_block" else 4
    if len(words) > 2 and words[-3] in ("downsamplers", "upsamplers"):
        length = len(words)  # the convolution itself
    return ".".join(words[:length])


def _blocks(blocks: frozenset[str]) -> dict[str, str]:
    """The original name of each block: the way of the latent through the U-Net, counted."""
    named: dict[str, str] = {}
    index = 1
    for level in _count(blocks, "down_blocks.{}.resnets.0"):
        of = f"down_blocks.{level}"
        for layer in _count(blocks, f"{of}.resnets.{{}}"):
            named[f"{of}.resnets.{layer}"] = f"input_blocks.{index}.0"
            named[f"{of}.attentions.{layer}"] = f"input_blocks.{index}.1"
            index += 1
        if f"{of}.downsamplers.0.conv" in blocks:
            named[f"{of}.downsamplers.0.conv"] = f"input_blocks.{index}.0.op"
            index += 1
    attentions = len(_count(blocks, "mid_block.attentions.{}"))
    for layer in _count(blocks, "mid_block.resnets.{}"):
        named[f"mid_block.resnets.{layer}"] = f"middle_block.{layer * (1 + (attentions > 0))}"
        named[f"mid_block.attentions.{layer}"] = f"middle_block.{2 * layer + 1}"
    index = 0
    for level in _count(blocks, "up_blocks.{}.resnets.0"):
        of = f"up_blocks.{level}"
        for layer in _count(blocks, f"{of}.resnets.{{}}"):
            named[f"{of}.resnets.{layer}"] = f"output_blocks.{index}.0"
            named[f"{of}.attentions.{layer}"] = f"output_blocks.{index}.1"
            index += 1
        place = 2 if f"{of}.attentions.0" in blocks else 1
        named[f"{of}.upsamplers.0.conv"] = f"output_blocks.{index - 1}.{place}.conv"
    return named


def _count(blocks: frozenset[str], pattern: str) -> range:
    """The numbers from 0 on for which a block of this pattern exists."""
    number = 0
    while pattern.format(number) in blocks:
        number += 1
    return range(number)
