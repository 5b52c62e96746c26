"""The canonical names of a part's tensors, from its config alone.

They are those of `UNet2DConditionModel`, `ControlNetModel` and `AutoencoderKL` in diffusers, and of
`CLIPTextModel` in transformers with the prefix `text_model.`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentrt.weights.source import Config


@dataclass(frozen=True, slots=True)
class Depths:
    """How many transformer blocks follow each residual block of a U-Net; 0 is no attention.

    `down` and `up` have a tuple for each level, in the order of evaluation. `middle` is None for a
    middle with one residual block and no attention.
    """

    down: tuple[tuple[int, ...], ...]
    middle: int | None
    up: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(config: Config) -> Depths:
        """The depths that a config of `UNet2DConditionModel` describes."""
        levels = len(config["block_out_channels"])
        stated: Any = config.get("transformer_layers_per_block", 1)
        depths = [stated] * levels if isinstance(stated, int) else list(stated)
        upwards = config.get("reverse_transformer_layers_per_block") or depths[::-1]
        layers: Any = config["layers_per_block"]
        counts = [layers] * levels if isinstance(layers, int) else list(layers)
        crossed = config.get("mid_block_type", _CROSSED) == _CROSSED
        return Depths(
            down=_by_block(config["down_block_types"], depths, counts),
            middle=depths[-1] if crossed else None,
            up=_by_block(config["up_block_types"], upwards, [n + 1 for n in counts[::-1]]),
        )


_CROSSED = "UNetMidBlock2DCrossAttn"


def _by_block(
    types: Sequence[str], depths: Sequence[Any], counts: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    found: list[tuple[int, ...]] = []
    for kind, depth, count in zip(types, depths, counts, strict=True):
        several = [depth] * count if isinstance(depth, int) else depth
        found.append(tuple(several) if kind.startswith("CrossAttn") else (0,) * count)
    return tuple(found)


def canonical_names(folder: str, config: Config) -> tuple[str, ...]:
    """The names of all tensors of a part.

    Raises `LookupError` or `ValueError` for a config that lacks a field or contradicts itself.
    """
    if folder == "unet":
        return tuple(_unet(config))
    if folder == "controlnet":
        return tuple(_controlnet(config))
    if folder == "vae":
        return tuple(_vae(config))
    names = tuple(f"text_model.{name}" for name in _text(config))
    return (*names, "text_projection.weight") if folder == "text_encoder_2" else names


def _both(*layers: str) -> Iterator[str]:
    for layer in layers:
        yield f"{layer}.weight"
        yield f"{layer}.bias"


def _residual(where: str, *, shortcut: bool, timed: bool) -> Iterator[str]:
    yield from _both(*(f"{where}.{layer}" for layer in ("norm1", "conv1", "norm2", "conv2")))
    if timed:
        yield from _both(f"{where}.time_emb_proj")
    if shortcut:
        yield from _both(f"{where}.conv_shortcut")


def _transformer(where: str, depth: int) -> Iterator[str]:
    yield from _both(*(f"{where}.{layer}" for layer in ("norm", "proj_in", "proj_out")))
    for i in range(depth):
        block = f"{where}.transformer_blocks.{i}"
        yield from _both(*(f"{block}.norm{n}" for n in (1, 2, 3)))
        for attention in (f"{block}.attn1", f"{block}.attn2"):
            yield from (f"{attention}.{layer}.weight" for layer in ("to_q", "to_k", "to_v"))
            yield from _both(f"{attention}.to_out.0")
        yield from _both(f"{block}.ff.net.0.proj", f"{block}.ff.net.2")


def _unet(config: Config) -> Iterator[str]:
    depths, last = Depths.of(config), len(config["block_out_channels"]) - 1
    yield from _both("conv_norm_out", "conv_out")
    if config.get("time_cond_proj_dim") is not None:
        yield "time_embedding.cond_proj.weight"
    yield from _downwards(config, depths)
    for i, level in enumerate(depths.up):
        block = f"up_blocks.{i}"
        for j, depth in enumerate(level):
            # What skips the blocks below comes on top of the block's own channels.
            yield from _residual(f"{block}.resnets.{j}", shortcut=True, timed=True)
            if depth:
                yield from _transformer(f"{block}.attentions.{j}", depth)
        if i < last:
            yield from _both(f"{block}.upsamplers.0.conv")


def _downwards(config: Config, depths: Depths) -> Iterator[str]:
    """The first half of a U-Net, which a ControlNet has a copy of."""
    widths: Sequence[int] = config["block_out_channels"]
    last = len(widths) - 1
    yield from _both("conv_in", "time_embedding.linear_1", "time_embedding.linear_2")
    if config.get("addition_embed_type") is not None:
        yield from _both("add_embedding.linear_1", "add_embedding.linear_2")
    for i, level in enumerate(depths.down):
        block = f"down_blocks.{i}"
        changes = i > 0 and widths[i] != widths[i - 1]
        for j, depth in enumerate(level):
            yield from _residual(f"{block}.resnets.{j}", shortcut=changes and j == 0, timed=True)
            if depth:
                yield from _transformer(f"{block}.attentions.{j}", depth)
        if i < last:
            yield from _both(f"{block}.downsamplers.0.conv")
    yield from _residual("mid_block.resnets.0", shortcut=False, timed=True)
    if depths.middle is not None:
        yield from _transformer("mid_block.attentions.0", depths.middle)
        yield from _residual("mid_block.resnets.1", shortcut=False, timed=True)


def _controlnet(config: Config) -> Iterator[str]:
    # Its config says nothing of upper blocks.
    lower = {name: value for name, value in config.items() if not name.startswith("up_block")}
    depths = Depths.of({**lower, "up_block_types": ["UpBlock2D"] * len(config["down_block_types"])})
    yield from _downwards(config, depths)
    encoder = "controlnet_cond_embedding"
    yield from _both(f"{encoder}.conv_in", f"{encoder}.conv_out")
    changes = 2 * (len(config["conditioning_embedding_out_channels"]) - 1)
    yield from _both(*(f"{encoder}.blocks.{i}" for i in range(changes)))
    skips = 1 + sum(map(len, depths.down)) + len(depths.down) - 1
    yield from _both(*(f"controlnet_down_blocks.{i}" for i in range(skips)))
    yield from _both("controlnet_mid_block")


def _vae(config: Config) -> Iterator[str]:
    widths: Sequence[int] = config["block_out_channels"]
    count: int = config["layers_per_block"]
    yield from _both("quant_conv", "post_quant_conv")
    for half, blocks, ends, residuals, order in (
        ("encoder", "down_blocks", "downsamplers", count, list(widths)),
        ("decoder", "up_blocks", "upsamplers", count + 1, list(widths)[::-1]),
    ):
        yield from _both(*(f"{half}.{layer}" for layer in ("conv_in", "conv_norm_out", "conv_out")))
        before = order[0]
        for i, width in enumerate(order):
            where = f"{half}.{blocks}.{i}"
            for j in range(residuals):
                yield from _residual(f"{where}.resnets.{j}", shortcut=before != width, timed=False)
                before = width
            if i < len(order) - 1:
                yield from _both(f"{where}.{ends}.0.conv")
        for j in (0, 1):
            yield from _residual(f"{half}.mid_block.resnets.{j}", shortcut=False, timed=False)
        attention = f"{half}.mid_block.attentions.0"
        layers = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
        yield from _both(*(f"{attention}.{layer}" for layer in layers))


def _text(config: Mapping[str, Any]) -> Iterator[str]:
    yield from ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
    yield from _both("final_layer_norm")
    layers = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
    attention = ("q_proj", "k_proj", "v_proj", "out_proj")
    for i in range(config["num_hidden_layers"]):
        where = f"encoder.layers.{i}"
        yield from _both(*(f"{where}.{layer}" for layer in layers))
        yield from _both(*(f"{where}.self_attn.{layer}" for layer in attention))
