"""The graphs of a checkpoint: the folder and the named arrays of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from latentrt.bundle.spec import TensorSpec
from latentrt.weights.source import Config

SIZES: Final = 6
"""SDXL's `time_ids`: height and width of the original, top and left of the crop, of the target."""
_SCORED: Final = 5
"""Those of its refiner: an aesthetic score in place of the target's height and width."""

BORDER: Final[Mapping[str, str]] = MappingProxyType(
    {"float32": "float32", "float16": "float16", "bfloat16": "float32"}
)
"""Dtype of a graph's inputs and outputs, by its own dtype: NumPy has no bfloat16."""


CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
    }
)
"""The class in transformers or diffusers that each folder's config names."""


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """One graph: its folder in the checkpoint, and its named arrays.

    `inputs` and `outputs` give the arrays for a config at a floating-point dtype.
    """

    name: str
    folder: str
    inputs: Callable[[Config, str], tuple[TensorSpec, ...]]
    outputs: Callable[[Config, str], tuple[TensorSpec, ...]]


def component_specs(folders: Collection[str]) -> tuple[ComponentSpec, ...]:
    """The graphs of a checkpoint that has these folders, in the order they are made."""
    return tuple(spec for spec in _ALL if spec.folder in folders)


def folder_of(component: str) -> str:
    """The folder of a checkpoint that a component's weights are in."""
    return next(spec.folder for spec in _ALL if spec.name == component)


def pooled_width(config: Config) -> int | None:
    """Width of the pooled text that a U-Net takes beside sizes, None if it takes neither.

    It projects both at once, each size in as many numbers as a timestep: the width is what is left.
    """
    if config["addition_embed_type"] is None:
        return None
    width = config["projection_class_embeddings_input_dim"]
    return int(width) - size_count(config) * int(config["addition_time_embed_dim"])


def size_count(config: Config) -> int:
    """How many numbers a U-Net takes beside pooled text.

    A refiner, whose text has one encoder, takes five: then the pooled text is as wide as the text.
    """
    left = int(config["projection_class_embeddings_input_dim"])
    left -= _SCORED * int(config["addition_time_embed_dim"])
    return _SCORED if left == config["cross_attention_dim"] else SIZES


def vae_factor(config: Config) -> int:
    """Pixels per latent along each axis."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def _text_inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    return (TensorSpec("inputs_embeds", ("batch", "sequence", config["hidden_size"]), dtype),)


def _text_outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    dims = ("batch", "sequence", config["hidden_size"])
    layers = range(config["num_hidden_layers"] + 1)
    names = ("last_hidden_state", *(f"hidden_states.{i}" for i in layers))
    return tuple(TensorSpec(name, dims, dtype) for name in names)


def _unet_inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    text = ("batch", "sequence", config["cross_attention_dim"])
    specs = [
        TensorSpec("sample", ("batch", config["in_channels"], "height", "width"), dtype),
        TensorSpec("timestep", ("batch",), "float32"),
        TensorSpec("encoder_hidden_states", text, dtype),
    ]
    pooled = pooled_width(config)
    if pooled is not None:
        specs.append(TensorSpec("text_embeds", ("batch", pooled), dtype))
        # Sizes beyond 2048 are no float16 numbers.
        specs.append(TensorSpec("time_ids", ("batch", size_count(config)), "float32"))
    if config["time_cond_proj_dim"] is not None:
        specs.append(TensorSpec("timestep_cond", ("batch", config["time_cond_proj_dim"]), dtype))
    return tuple(specs)


def _unet_outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    dims = ("batch", config["out_channels"], "height", "width")
    return (TensorSpec("model_output", dims, dtype),)


def _decoder_inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    dims = ("batch", config["latent_channels"], "height", "width")
    return (TensorSpec("latents", dims, dtype),)


def _decoder_outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    factor = vae_factor(config)
    dims = ("batch", config["out_channels"], f"height*{factor}", f"width*{factor}")
    return (TensorSpec("images", dims, dtype),)


def _encoder_inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    dims = ("batch", config["in_channels"], "image_height", "image_width")
    return (TensorSpec("images", dims, dtype),)


def _encoder_outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    factor = vae_factor(config)
    dims = ("batch", 2 * config["latent_channels"])
    return (
        TensorSpec("moments", (*dims, f"image_height/{factor}", f"image_width/{factor}"), dtype),
    )


_ALL: Final = (
    ComponentSpec("text_encoder", "text_encoder", _text_inputs, _text_outputs),
    ComponentSpec("text_encoder_2", "text_encoder_2", _text_inputs, _text_outputs),
    ComponentSpec("unet", "unet", _unet_inputs, _unet_outputs),
    ComponentSpec("vae_decoder", "vae", _decoder_inputs, _decoder_outputs),
    ComponentSpec("vae_encoder", "vae", _encoder_inputs, _encoder_outputs),
)
