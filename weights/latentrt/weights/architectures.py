"""The configs of the architectures that people have, as their checkpoints have them.

Text encoders and schedulers have only the fields that change something. CLIP ViT-L's tokenizer pads
with its end token, OpenCLIP's with "!", id 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

Configs = Mapping[str, Mapping[str, Any]]

_END: Final = {"pad_token": "<|endoftext|>"}
_EXCLAMATION: Final = {"pad_token": "!"}

_CLIP: Final[Mapping[str, Any]] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "layer_norm_eps": 1e-5,
}
# Ids of configs from before transformers read them. With eos_token_id 2, pooling takes the
# position of the largest id.
_OLD_IDS: Final = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}

_VIT_L: Final[Mapping[str, Any]] = {
    **_CLIP,
    "architectures": ["CLIPTextModel"],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
_VIT_H: Final[Mapping[str, Any]] = {
    **_CLIP,
    **_OLD_IDS,
    "architectures": ["CLIPTextModel"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 512,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
_BIG_G: Final[Mapping[str, Any]] = {
    **_CLIP,
    **_OLD_IDS,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
}
_UNET: Final[Mapping[str, Any]] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
_VAE: Final[Mapping[str, Any]] = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
_DDIM: Final[Mapping[str, Any]] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}

_SD15: Final[Configs] = {
    "model_index": {"_class_name": "StableDiffusionPipeline"},
    "text_encoder": {
        **_VIT_L,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    },
    "tokenizer": _END,
    "unet": _UNET,
    "vae": _VAE,
    "scheduler": _DDIM,
}
"""Stable Diffusion 1.5, with DDIM in place of PNDM and the ids that its tokenizer has."""

_SD21: Final[Configs] = {
    "model_index": {"_class_name": "StableDiffusionPipeline"},
    "text_encoder": _VIT_H,
    "tokenizer": _EXCLAMATION,
    "unet": {
        **_UNET,
        "sample_size": 96,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "vae": {**_VAE, "sample_size": 768},
    "scheduler": {**_DDIM, "prediction_type": "v_prediction"},
}
"""Stable Diffusion 2.1 at 768 x 768."""

_BASE: Final[Mapping[str, Any]] = {**_SD21["unet"], "sample_size": 64, "upcast_attention": False}
PNDM: Final[Mapping[str, Any]] = {
    **_DDIM,
    "_class_name": "PNDMScheduler",
    "skip_prk_steps": True,
}
"""The scheduler of Stable Diffusion 1.5, and of 2's base models."""

_SD2_BASE: Final[Configs] = {
    **_SD21,
    "unet": _BASE,
    "vae": _VAE,
    "scheduler": PNDM,
}
"""Stable Diffusion 2.0 and 2.1 base at 512 x 512, which predict the noise."""

_SD2: Final[Configs] = {**_SD21, "unet": {**_BASE, "sample_size": 96}}
"""Stable Diffusion 2.0 at 768 x 768. It differs from 2.1 in `upcast_attention` alone."""

_SDXL: Final[Configs] = {
    "model_index": {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
    },
    "text_encoder": {**_VIT_L, **_OLD_IDS},
    "text_encoder_2": _BIG_G,
    "tokenizer": _END,
    "tokenizer_2": _EXCLAMATION,
    "unet": {
        **_UNET,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    "scheduler": {
        "_class_name": "EulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "interpolation_type": "linear",
        "use_karras_sigmas": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "clip_sample": False,
    },
}
"""Stable Diffusion XL base 1.0."""


_XL_UNET: Final = _SDXL["unet"]


def _another(configs: Configs, pipeline: str, **folders: Mapping[str, Any]) -> Configs:
    """The same checkpoint for another pipeline, with fields of its folders replaced."""
    index = {**configs["model_index"], "_class_name": pipeline}
    changed = {name: {**configs[name], **fields} for name, fields in folders.items()}
    return {**configs, "model_index": index, **changed}


_PIX2PIX: Final = _another(
    _SD15,
    "StableDiffusionInstructPix2PixPipeline",
    unet={"in_channels": 8},
    scheduler={"_class_name": "EulerAncestralDiscreteScheduler"},
)
_LCM: Final = _another(
    _SD15,
    "LatentConsistencyModelPipeline",
    unet={"sample_size": 96, "time_cond_proj_dim": 256},
    vae={"sample_size": 768},
    scheduler={
        "_class_name": "LCMScheduler",
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "original_inference_steps": 50,
    },
)

_REFINER: Final[Configs] = {
    "model_index": {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True,
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    },
    "text_encoder_2": _BIG_G,
    "tokenizer_2": _EXCLAMATION,
    "unet": {
        **_XL_UNET,
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 4,
        # Five sizes, of which the last is the aesthetic score.
        "projection_class_embeddings_input_dim": 2560,
    },
    "vae": _SDXL["vae"],
    "scheduler": _SDXL["scheduler"],
}
"""Stable Diffusion XL refiner 1.0."""

# Both have one residual block in the middle, and no attention there.
_SSD_1B: Final = _another(
    _SDXL,
    "StableDiffusionXLPipeline",
    unet={
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
)
_VEGA: Final = _another(
    _SDXL,
    "StableDiffusionXLPipeline",
    unet={"mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]},
)

_INPAINT: Final[Mapping[str, Any]] = {"in_channels": 9}

ARCHITECTURES: Final[Mapping[str, Configs]] = MappingProxyType(
    {
        "sd15": _SD15,
        "sd15-inpainting": _another(_SD15, "StableDiffusionInpaintPipeline", unet=_INPAINT),
        "sd15-pix2pix": _PIX2PIX,
        "lcm": _LCM,
        "sd2-base": _SD2_BASE,
        "sd2-depth": _another(
            _SD2_BASE, "StableDiffusionDepth2ImgPipeline", unet={"in_channels": 5}
        ),
        "sd2-inpainting": _another(_SD2_BASE, "StableDiffusionInpaintPipeline", unet=_INPAINT),
        "sd2": _SD2,
        "sd21": _SD21,
        "sdxl": _SDXL,
        "sdxl-inpainting": _another(_SDXL, "StableDiffusionXLInpaintPipeline", unet=_INPAINT),
        "sdxl-refiner": _REFINER,
        "ssd-1b": _SSD_1B,
        "vega": _VEGA,
    }
)
"""The configs of each architecture by folder, and its `model_index`."""
