"""Single files as the original code names and shapes them, built the way its modules are.

Sources: `openaimodel.py`, `attention.py` and `model.py` of github.com/CompVis/stable-diffusion and
github.com/Stability-AI/generative-models, `transformer.py` of github.com/mlfoundations/open_clip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.weights.architectures import ARCHITECTURES

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class UnetParams:
    """The parameters of the original `UNetModel`.

    `down` and `up` have the depths of the transformers a level, from the first level to the last;
    `middle` is None for a middle of one residual block.
    """

    widths: Sequence[int]
    context: int
    down: Sequence[Sequence[int]]
    up: Sequence[Sequence[int]]
    middle: int | None
    linear: bool
    in_channels: int = 4
    classes: int | None = None


def layer(name: str, out: int, into: int, *kernel: int) -> Shapes:
    return {f"{name}.weight": (out, into, *kernel), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def residual(name: str, into: int, out: int, time: int) -> Shapes:
    return {
        **norm(f"{name}.in_layers.0", into),
        **layer(f"{name}.in_layers.2", out, into, 3, 3),
        **layer(f"{name}.emb_layers.1", out, time),
        **norm(f"{name}.out_layers.0", out),
        **layer(f"{name}.out_layers.3", out, out, 3, 3),
        **(layer(f"{name}.skip_connection", out, into, 1, 1) if into != out else {}),
    }


def transformer(name: str, width: int, depth: int, context: int, linear: bool) -> Shapes:
    kernel = () if linear else (1, 1)
    found = {
        **norm(f"{name}.norm", width),
        **layer(f"{name}.proj_in", width, width, *kernel),
        **layer(f"{name}.proj_out", width, width, *kernel),
    }
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for n, source in ((1, width), (2, context)):
            attention = f"{block}.attn{n}"
            found[f"{attention}.to_q.weight"] = (width, width)
            found[f"{attention}.to_k.weight"] = found[f"{attention}.to_v.weight"] = (width, source)
            found |= layer(f"{attention}.to_out.0", width, width)
        found |= layer(f"{block}.ff.net.0.proj", 8 * width, width)
        found |= layer(f"{block}.ff.net.2", width, 4 * width)
        for n in (1, 2, 3):
            found |= norm(f"{block}.norm{n}", width)
    return found


def unet(params: UnetParams) -> Shapes:
    first = params.widths[0]
    time = 4 * first
    found = {
        **layer("time_embed.0", time, first),
        **layer("time_embed.2", time, time),
        **layer("input_blocks.0.0", first, params.in_channels, 3, 3),
    }
    if params.classes is not None:
        found |= layer("label_emb.0.0", time, params.classes)
        found |= layer("label_emb.0.2", time, time)
    channels, skips, n = first, [first], 1
    for level, (width, depths) in enumerate(zip(params.widths, params.down, strict=True)):
        for depth in depths:
            found |= residual(f"input_blocks.{n}.0", channels, width, time)
            channels = width
            if depth:
                found |= transformer(
                    f"input_blocks.{n}.1", width, depth, params.context, params.linear
                )
            skips.append(channels)
            n += 1
        if level < len(params.widths) - 1:
            found |= layer(f"input_blocks.{n}.0.op", channels, channels, 3, 3)
            skips.append(channels)
            n += 1
    found |= residual("middle_block.0", channels, channels, time)
    if params.middle is not None:
        found |= transformer(
            "middle_block.1", channels, params.middle, params.context, params.linear
        )
        found |= residual("middle_block.2", channels, channels, time)
    n = 0
    for level in reversed(range(len(params.widths))):
        width, depths = params.widths[level], params.up[level]
        for j, depth in enumerate(depths):
            found |= residual(f"output_blocks.{n}.0", channels + skips.pop(), width, time)
            channels = width
            if depth:
                found |= transformer(
                    f"output_blocks.{n}.1", width, depth, params.context, params.linear
                )
            if level and j == len(depths) - 1:
                at = f"output_blocks.{n}.{2 if depth else 1}.conv"
                found |= layer(at, channels, channels, 3, 3)
            n += 1
    return {**found, **norm("out.0", channels), **layer("out.2", 4, first, 3, 3)}


def vae(widths: Sequence[int], layers: int, latent: int = 4) -> Shapes:
    found = {
        **layer("quant_conv", 2 * latent, 2 * latent, 1, 1),
        **layer("post_quant_conv", latent, latent, 1, 1),
    }

    def block(name: str, into: int, out: int) -> Shapes:
        shortcut = layer(f"{name}.nin_shortcut", out, into, 1, 1) if into != out else {}
        return {
            **norm(f"{name}.norm1", into),
            **layer(f"{name}.conv1", out, into, 3, 3),
            **norm(f"{name}.norm2", out),
            **layer(f"{name}.conv2", out, out, 3, 3),
            **shortcut,
        }

    last = widths[-1]
    for half in ("encoder", "decoder"):
        for i in (1, 2):
            found |= block(f"{half}.mid.block_{i}", last, last)
        found |= norm(f"{half}.mid.attn_1.norm", last)
        for name in ("q", "k", "v", "proj_out"):
            found |= layer(f"{half}.mid.attn_1.{name}", last, last, 1, 1)
    channels = widths[0]
    found |= layer("encoder.conv_in", channels, 3, 3, 3)
    for i, width in enumerate(widths):
        for j in range(layers):
            found |= block(f"encoder.down.{i}.block.{j}", channels, width)
            channels = width
        if i < len(widths) - 1:
            found |= layer(f"encoder.down.{i}.downsample.conv", width, width, 3, 3)
    found |= norm("encoder.norm_out", last) | layer("encoder.conv_out", 2 * latent, last, 3, 3)
    channels = last
    found |= layer("decoder.conv_in", last, latent, 3, 3)
    for i in reversed(range(len(widths))):
        for j in range(layers + 1):
            found |= block(f"decoder.up.{i}.block.{j}", channels, widths[i])
            channels = widths[i]
        if i:
            found |= layer(f"decoder.up.{i}.upsample.conv", widths[i], widths[i], 3, 3)
    return {
        **found,
        **norm("decoder.norm_out", channels),
        **layer("decoder.conv_out", 3, channels, 3, 3),
    }


def clip(width: int, inner: int, layers: int, vocabulary: int, positions: int = 77) -> Shapes:
    found: Shapes = {
        "text_model.embeddings.token_embedding.weight": (vocabulary, width),
        "text_model.embeddings.position_embedding.weight": (positions, width),
        **norm("text_model.final_layer_norm", width),
    }
    for i in range(layers):
        where = f"text_model.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= layer(f"{where}.self_attn.{name}", width, width)
        found |= norm(f"{where}.layer_norm1", width) | norm(f"{where}.layer_norm2", width)
        found |= layer(f"{where}.mlp.fc1", inner, width) | layer(f"{where}.mlp.fc2", width, inner)
    return found


def open_clip(
    width: int, inner: int, layers: int, vocabulary: int, projection: int, positions: int = 77
) -> Shapes:
    found: Shapes = {
        "positional_embedding": (positions, width),
        "text_projection": (width, projection),
        "logit_scale": (),
        "token_embedding.weight": (vocabulary, width),
        **norm("ln_final", width),
    }
    for i in range(layers):
        where = f"transformer.resblocks.{i}"
        found[f"{where}.attn.in_proj_weight"] = (3 * width, width)
        found[f"{where}.attn.in_proj_bias"] = (3 * width,)
        found |= layer(f"{where}.attn.out_proj", width, width)
        found |= norm(f"{where}.ln_1", width) | norm(f"{where}.ln_2", width)
        found |= layer(f"{where}.mlp.c_fc", inner, width)
        found |= layer(f"{where}.mlp.c_proj", width, inner)
    return found


def under(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


# By architecture: U-Net, then the prefixes of the text encoders.
_EVEN = [[1, 1], [1, 1], [1, 1], [0, 0]]
_UPWARDS = [[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]]


def _sd(context: int, linear: bool, in_channels: int = 4) -> UnetParams:
    widths = (320, 640, 1280, 1280)
    return UnetParams(widths, context, _EVEN, _UPWARDS, 1, linear, in_channels)


def _xl(down: Any, up: Any, middle: int | None, in_channels: int = 4) -> UnetParams:
    return UnetParams((320, 640, 1280), 2048, down, up, middle, True, in_channels, 2816)


_XL_DOWN, _XL_UP = [[0, 0], [2, 2], [10, 10]], [[0, 0, 0], [2, 2, 2], [10, 10, 10]]
UNETS: dict[str, UnetParams] = {
    "sd15": _sd(768, False),
    "sd15-inpainting": _sd(768, False, 9),
    "sd15-pix2pix": _sd(768, False, 8),
    "sd2-base": _sd(1024, True),
    "sd2-depth": _sd(1024, True, 5),
    "sd2-inpainting": _sd(1024, True, 9),
    "sd21": _sd(1024, True),
    "sdxl": _xl(_XL_DOWN, _XL_UP, 10),
    "sdxl-inpainting": _xl(_XL_DOWN, _XL_UP, 10, 9),
    "sdxl-refiner": UnetParams(
        (384, 768, 1536, 1536),
        1280,
        [[0, 0], [4, 4], [4, 4], [0, 0]],
        [[0, 0, 0], [4, 4, 4], [4, 4, 4], [0, 0, 0]],
        4,
        True,
        classes=2560,
    ),
    "ssd-1b": _xl([[0, 0], [2, 2], [4, 4]], [[0, 0, 0], [2, 1, 1], [4, 4, 10]], None),
    "vega": _xl([[0, 0], [1, 1], [2, 2]], [[0, 0, 0], [1, 1, 1], [2, 2, 2]], None),
}
CLIP_L = ("cond_stage_model.transformer.", clip(768, 3072, 12, 49408))
VIT_H = ("cond_stage_model.model.", open_clip(1024, 4096, 24, 49408, 1024))
XL_L = ("conditioner.embedders.0.transformer.", CLIP_L[1])
BIG_G = open_clip(1280, 5120, 32, 49408, 1280)
_TEXTS: dict[int, list[tuple[str, Shapes]]] = {
    768: [CLIP_L],
    1024: [VIT_H],
    2048: [XL_L, ("conditioner.embedders.1.model.", BIG_G)],
    1280: [("conditioner.embedders.0.model.", BIG_G)],
}


def whole(name: str) -> Shapes:
    """The tensors of a whole checkpoint at its real size."""
    params = UNETS[name]
    found = under("model.diffusion_model.", unet(params))
    found |= under("first_stage_model.", vae((128, 256, 512, 512), 2))
    for prefix, shapes in _TEXTS[params.context]:
        found |= under(prefix, shapes)
    return found


_CODES = {"float16": "F16", "float32": "F32", "int64": "I64", "float64": "F64"}


def sparse(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, NDArray[Any]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A file of these tensors in float16, all zeros and none of them on the disk, but `values`."""
    values = values or {}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, shape in {**shapes, **{n: v.shape for n, v in values.items()}}.items():
        dtype = values[name].dtype if name in values else np.dtype(np.float16)
        end = position + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        offsets = [position, end]
        header[name] = {"dtype": _CODES[dtype.name], "shape": list(shape), "data_offsets": offsets}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, value in values.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(value.tobytes())
        file.truncate(8 + len(text) + position)
    return path


def random(
    shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32
) -> dict[str, NDArray[Any]]:
    """Values that differ from tensor to tensor."""
    return dict(_random(shapes, dtype))


def _random(
    shapes: Mapping[str, tuple[int, ...]], dtype: Any
) -> Iterator[tuple[str, NDArray[Any]]]:
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        yield name, rng.standard_normal(shape, np.float32).astype(dtype)


TEXT, TEXT_2, LATENTS = (8, 16), (12, 24), (4, 8, 12, 12)
"""Widths of small text encoders, inside and of their layers, and of a small VAE."""
_SMALL = {320: 8, 640: 12, 1280: 16, 384: 8, 768: 12, 1536: 16}
_CONTEXT = {768: 8, 1024: 8, 2048: 20, 1280: 12}
_VOCABULARY = 30


@dataclass(frozen=True)
class SmallConfigs:
    """The configs of a small model of an architecture, as a checkpoint without tensors."""

    name: str
    notes: tuple[str, ...] = ()

    @property
    def index(self) -> Mapping[str, Any]:
        return {**ARCHITECTURES[self.name]["model_index"], **dict.fromkeys(self._folders(), "")}

    def _folders(self) -> list[str]:
        return [folder for folder in ARCHITECTURES[self.name] if folder != "model_index"]

    def config(self, folder: str) -> Mapping[str, Any]:
        config = dict(ARCHITECTURES[self.name][folder])
        if folder == "unet":
            small = small_unet(self.name)
            config |= {
                "block_out_channels": list(small.widths),
                "cross_attention_dim": small.context,
            }
            if small.classes is not None:
                config |= {
                    "addition_time_embed_dim": 8,
                    "projection_class_embeddings_input_dim": small.classes,
                }
        elif folder == "vae":
            config["block_out_channels"] = list(LATENTS)
        elif folder.startswith("text_encoder"):
            width, inner = TEXT_2 if folder == "text_encoder_2" else TEXT
            config |= {
                "hidden_size": width,
                "intermediate_size": inner,
                "projection_dim": width,
                "vocab_size": _VOCABULARY,
            }
        return config

    def tensors(self, folder: str) -> Any:
        raise AssertionError(f"the tensors of {folder} were read")

    def tokenizer(self, folder: str) -> dict[str, bytes]:
        return {folder: b"of the configs"}


def small_unet(name: str) -> UnetParams:
    params = UNETS[name]
    widths = tuple(_SMALL[n] for n in params.widths)
    # The second text encoder's width, and six sizes or five, of width 8 each.
    sizes = {None: None, 2816: 12 + 48, 2560: 12 + 40}[params.classes]
    return replace(params, widths=widths, context=_CONTEXT[params.context], classes=sizes)


def small(name: str) -> Shapes:
    """The tensors of a whole checkpoint of small widths, and the depth of the real one."""
    context = UNETS[name].context
    first, second = clip(*TEXT, 12, _VOCABULARY), open_clip(*TEXT_2, 32, _VOCABULARY, TEXT_2[0])
    texts = {
        768: under("cond_stage_model.transformer.", first),
        1024: under("cond_stage_model.model.", open_clip(*TEXT, 24, _VOCABULARY, TEXT[0])),
        2048: under("conditioner.embedders.0.transformer.", first)
        | under("conditioner.embedders.1.model.", second),
        1280: under("conditioner.embedders.0.model.", second),
    }
    return {
        **under("model.diffusion_model.", unet(small_unet(name))),
        **under("first_stage_model.", vae(LATENTS, 2)),
        **texts[context],
    }
