"""The graphs of a ControlNet, and the residuals that a U-Net takes from it."""

from __future__ import annotations

from typing import Any, Final

from latentrt.bundle.spec import TensorSpec
from latentrt.weights.component_specs import ComponentSpec, pooled_width, size_count
from latentrt.weights.source import Config

CONTROLNET: Final = "controlnet"
"""The folder of a ControlNet's tensors, and the graph that gives its residuals."""
HINT_ENCODER: Final = "hint_encoder"
"""The graph that encodes a picture for a ControlNet, once a picture."""
CONTROLNET_CLASS: Final = "ControlNetModel"
"""The class in diffusers that a ControlNet's config names."""

DOWN: Final = "down_block_res_samples"
MID: Final = "mid_block_res_sample"
"""The residuals that a ControlNet gives, as diffusers names them."""
DOWN_ADDED: Final = "down_block_additional_residuals"
MID_ADDED: Final = "mid_block_additional_residual"
"""The residuals that a U-Net takes, likewise."""


def control_specs() -> tuple[ComponentSpec, ...]:
    """The graphs of a ControlNet, in the order they are made."""
    return _ALL


def residual_specs(config: Config, dtype: str, down: str, mid: str) -> tuple[TensorSpec, ...]:
    """The arrays at the skip connections of a U-Net or ControlNet, then that of its middle.

    Each change of size halves a latent and rounds up.
    """
    widths: Any = config["block_out_channels"]
    stated: Any = config["layers_per_block"]
    layers = [stated] * len(widths) if isinstance(stated, int) else list(stated)
    places = [(widths[0], 0)]
    for level, width in enumerate(widths):
        places += [(width, level)] * layers[level]
        if level < len(widths) - 1:
            places.append((width, level + 1))
    named = [(f"{down}.{i}", *place) for i, place in enumerate(places)]
    named.append((mid, widths[-1], len(widths) - 1))
    return tuple(TensorSpec(n, _dims(width, level), dtype) for n, width, level in named)


def hint_factor(config: Config) -> int:
    """Pixels of a picture per place of its encoding, along each axis."""
    return 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)


def _dims(width: int, level: int) -> tuple[str | int, ...]:
    if level == 0:
        return ("batch", width, "height", "width")
    return ("batch", width, f"height/{2**level}", f"width/{2**level}")


def _hint_inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    dims = ("batch", config["conditioning_channels"], "image_height", "image_width")
    return (TensorSpec("controlnet_cond", dims, dtype),)


def _hint_outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    factor = hint_factor(config)
    sides = (f"image_height/{factor}", f"image_width/{factor}")
    return (TensorSpec("hint", ("batch", config["block_out_channels"][0], *sides), dtype),)


def _inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    text = ("batch", "sequence", config["cross_attention_dim"])
    specs = [
        TensorSpec("sample", ("batch", config["in_channels"], "height", "width"), dtype),
        TensorSpec("timestep", ("batch",), "float32"),
        TensorSpec("encoder_hidden_states", text, dtype),
        TensorSpec("hint", ("batch", config["block_out_channels"][0], "height", "width"), dtype),
    ]
    pooled = pooled_width(config)
    if pooled is not None:
        specs.append(TensorSpec("text_embeds", ("batch", pooled), dtype))
        specs.append(TensorSpec("time_ids", ("batch", size_count(config)), "float32"))
    return tuple(specs)


def _outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    return residual_specs(config, dtype, DOWN, MID)


_ALL: Final = (
    ComponentSpec(HINT_ENCODER, CONTROLNET, _hint_inputs, _hint_outputs),
    ComponentSpec(CONTROLNET, CONTROLNET, _inputs, _outputs),
)
