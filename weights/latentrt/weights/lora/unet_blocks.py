"""The original names of a U-Net's layers, from its canonical ones."""

from __future__ import annotations

from collections.abc import Collection

from latentrt.weights.ldm_names import unet_spelling


def original_names(layers: Collection[str]) -> dict[str, str]:
    """The original name of every layer of a U-Net that has one, by its canonical name."""
    known = frozenset(layers)
    count = 0
    while f"down_blocks.0.resnets.{count}.conv1" in known:
        count += 1
    spelling = unet_spelling(count)
    found: dict[str, str] = {}
    for layer in layers:
        try:
            spelled = [s.name.removesuffix(".weight") for s in spelling(f"{layer}.weight")]
        except KeyError:  # a layer that the original code does not have
            continue
        # Where there are two, the second is that of a block without attention.
        block = layer.partition(".upsamplers.")[0]
        alone = len(spelled) > 1 and f"{block}.attentions.0.proj_in" not in known
        found[layer] = spelled[-1 if alone else 0]
    return found
