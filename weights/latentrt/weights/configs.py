"""Configs of a checkpoint's parts with every default, and the fingerprints of what they decide.

Defaults are those of diffusers' `UNet2DConditionModel`, `AutoencoderKL` and `ControlNetModel` and
of transformers' `CLIPTextConfig`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from latentrt.weights.source import Config

TEXT_DEFAULTS: Final[Config] = MappingProxyType(
    {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "projection_dim": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }
)
UNET_DEFAULTS: Final[Config] = MappingProxyType(
    {
        "sample_size": None,
        "in_channels": 4,
        "out_channels": 4,
        "center_input_sample": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "only_cross_attention": False,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "dropout": 0.0,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "reverse_transformer_layers_per_block": None,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "dual_cross_attention": False,
        "use_linear_projection": False,
        "class_embed_type": None,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "num_class_embeds": None,
        "upcast_attention": False,
        "resnet_time_scale_shift": "default",
        "resnet_skip_time_act": False,
        "resnet_out_scale_factor": 1.0,
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
        "time_cond_proj_dim": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "projection_class_embeddings_input_dim": None,
        "attention_type": "default",
        "class_embeddings_concat": False,
        "mid_block_only_cross_attention": None,
        "cross_attention_norm": None,
        "addition_embed_type_num_heads": 64,
    }
)
VAE_DEFAULTS: Final[Config] = MappingProxyType(
    {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
        "block_out_channels": [64],
        "layers_per_block": 1,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "force_upcast": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    }
)
CONTROLNET_DEFAULTS: Final[Config] = MappingProxyType(
    {
        "in_channels": 4,
        "conditioning_channels": 3,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "only_cross_attention": False,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "use_linear_projection": False,
        "class_embed_type": None,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "num_class_embeds": None,
        "upcast_attention": False,
        "resnet_time_scale_shift": "default",
        "projection_class_embeddings_input_dim": None,
        "controlnet_conditioning_channel_order": "rgb",
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
        "global_pool_conditions": False,
        "addition_embed_type_num_heads": 64,
    }
)
IMAGE_DEFAULTS: Final[Config] = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
)
DEFAULTS: Final[Mapping[str, Config]] = MappingProxyType(
    {
        "text_encoder": TEXT_DEFAULTS,
        "text_encoder_2": TEXT_DEFAULTS,
        "unet": UNET_DEFAULTS,
        "vae": VAE_DEFAULTS,
        "controlnet": CONTROLNET_DEFAULTS,
        "image_encoder": IMAGE_DEFAULTS,
    }
)

_INERT: Final = frozenset({"sample_size"})
"""Fields that do not change what a part computes."""

_NOT_IN_GRAPHS: Final[Mapping[str, Collection[str]]] = {
    # Channels are those of one convolution, whose shape is its tensor's. PyTorch's fused attention
    # does not read `upcast_attention`.
    "unet": {*_INERT, "in_channels", "upcast_attention", "dropout"},
    "vae": {
        *_INERT,
        "scaling_factor",
        "shift_factor",
        "latents_mean",
        "latents_std",
        "force_upcast",
    },
    # The runtime does what the last two say.
    "controlnet": {
        "in_channels",
        "upcast_attention",
        "controlnet_conditioning_channel_order",
        "global_pool_conditions",
    },
}
"""Fields that no graph depends on."""

_TEXT_IN_GRAPHS: Final = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
)
"""Fields of a text encoder's config that its graph depends on."""


def with_defaults(folder: str, config: Config) -> Config:
    """A part's config with every field that its class has.

    A text encoder's may be inside the config of a whole `CLIPModel`. Fields that the class does not
    have are kept for text encoders, as in transformers, and dropped for others, as in diffusers.
    """
    if folder.startswith("text_encoder"):
        inner = config.get("text_config")
        stated = cast("Config", inner) if isinstance(inner, Mapping) else config
        return {**TEXT_DEFAULTS, **stated}
    known = DEFAULTS[folder]
    filled = {key: config.get(key, default) for key, default in known.items()}
    if folder == "unet":
        filled["cross_attention_dim"] = _text_width(filled)
    return filled


def fingerprint(folder: str, config: Config) -> str:
    """SHA-256 of every config field that decides what a part computes."""
    return _digest({k: config[k] for k in DEFAULTS[folder] if k not in _INERT})


def graph_fingerprint(folder: str, config: Config) -> str:
    """SHA-256 of every config field that decides a part's graphs."""
    if folder.startswith("text_encoder"):
        return _digest({key: config[key] for key in _TEXT_IN_GRAPHS})
    defaults, inert = DEFAULTS[folder], _NOT_IN_GRAPHS[folder]
    # null stands for false where diffusers asks only whether a field is true.
    decisive = {
        key: False if config[key] is None and default is False else config[key]
        for key, default in defaults.items()
        if key not in inert
    }
    return _digest(decisive)


def _digest(decisive: Config) -> str:
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _text_width(config: Config) -> object:
    """One width for a list of them, where all blocks with cross-attention have the same."""
    stated: object = config["cross_attention_dim"]
    if not isinstance(stated, list | tuple):
        return stated
    widths = list(cast("list[Any]", stated))
    down, up = config["down_block_types"], config["up_block_types"]
    if not len(widths) == len(down) == len(up):
        return widths
    read = {w for w, kind in zip(widths, down, strict=True) if "CrossAttn" in str(kind)}
    read |= {w for w, kind in zip(widths[::-1], up, strict=True) if "CrossAttn" in str(kind)}
    if config["mid_block_type"] == "UNetMidBlock2DCrossAttn":
        read.add(widths[-1])
    return read.pop() if len(read) == 1 else sorted(read)
