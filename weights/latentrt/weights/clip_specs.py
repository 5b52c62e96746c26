"""The graphs of a CLIP: its text encoder is like SDXL's second, its image encoder its own."""

from __future__ import annotations

from typing import Final

from latentrt.bundle.spec import TensorSpec
from latentrt.weights.component_specs import ComponentSpec, component_specs
from latentrt.weights.source import Config

IMAGE_ENCODER: Final = "image_encoder"
"""The folder of an image encoder's tensors, and its graph."""
TEXT_ENCODER: Final = "text_encoder_2"
"""The same of the text encoder; token lookup, pooling and projection are NumPy."""
CLIP_CLASS: Final = "CLIPModel"
"""The class in transformers that a CLIP's config names."""


def clip_specs() -> tuple[ComponentSpec, ...]:
    """The graphs of a CLIP, in the order they are made."""
    return (*component_specs((TEXT_ENCODER,)), _IMAGE)


def _inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    side = config["image_size"]
    return (TensorSpec("pixel_values", ("batch", config["num_channels"], side, side), dtype),)


def _outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    return (TensorSpec("image_embeds", ("batch", config["projection_dim"]), dtype),)


_IMAGE: Final = ComponentSpec(IMAGE_ENCODER, IMAGE_ENCODER, _inputs, _outputs)
