"""The PyTorch module behind each component, as its graph is to see it.

Each is the library's own module with a forward of named tensors in, named tensors out; nothing of
the architecture is written again. Parameter names are the checkpoint's canonical ones (diffusers'
for U-Net and VAE, `text_model.` before the text encoder's), so that an initialiser of a graph and a
tensor of a weights file have the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.bundle.spec import TensorSpec

Config = Mapping[str, Any]


class TextEncoder(nn.Module):
    """CLIP text encoder from token embeddings to every hidden state."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        fields = {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype")}
        self.text_model = CLIPTextModel(CLIPTextConfig(**fields))
        self.text_model.set_attn_implementation("sdpa")

    def forward(self, inputs_embeds: Tensor) -> tuple[Tensor, ...]:
        # Sliced rather than looked up through `position_ids`, a buffer that no checkpoint owns.
        positions = self.text_model.embeddings.position_embedding.weight[: inputs_embeds.shape[1]]
        hidden = inputs_embeds + positions
        states = [hidden]
        for layer in self.text_model.encoder.layers:
            hidden = layer(hidden, attention_mask=None, is_causal=True)
            states.append(hidden)
        return (self.text_model.final_layer_norm(hidden), *states)


class UNet(UNet2DConditionModel):
    """Noise predictor: latents, timesteps and text to the raw model output."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor
    ) -> Tensor:
        return super().forward(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class Vae(AutoencoderKL):
    """Both halves, as a checkpoint holds them."""


class VaeDecoder(AutoencoderKL):
    """Latents, already divided by the scaling factor, to pictures in [-1, 1]."""

    def forward(self, latents: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return cast("Tensor", self.decode(cast("Any", latents), return_dict=False)[0])


class VaeEncoder(AutoencoderKL):
    """Pictures in [-1, 1] to the posterior's moments: mean, then log variance, by channel."""

    def forward(self, images: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._encode(images)


def _from_config(kind: Any, config: Config) -> Any:
    return kind.from_config({k: v for k, v in config.items() if k != "_class_name"})


def _unet(config: Config) -> nn.Module:
    return _from_config(UNet, config)


def _vae(config: Config) -> nn.Module:
    return _from_config(Vae, config)


def _vae_decoder(config: Config) -> nn.Module:
    module = _from_config(VaeDecoder, config)
    del module.encoder, module.quant_conv
    return module


def _vae_encoder(config: Config) -> nn.Module:
    module = _from_config(VaeEncoder, config)
    del module.decoder, module.post_quant_conv
    return module


@dataclass(frozen=True, slots=True)
class Whole:
    """One folder of a checkpoint: the class its config names, and the module with all its tensors.

    `filled` gives the config with every default written out.
    """

    class_name: str
    make: Callable[[Config], nn.Module]
    filled: Callable[[Any], Config]


WHOLE: Final[Mapping[str, Whole]] = {
    "text_encoder": Whole(
        "CLIPTextModel", TextEncoder, lambda module: module.text_model.config.to_dict()
    ),
    "unet": Whole("UNet2DConditionModel", _unet, lambda module: dict(module.config)),
    "vae": Whole("AutoencoderKL", _vae, lambda module: dict(module.config)),
}


@dataclass(frozen=True, slots=True)
class Component:
    """One graph: which folder of the checkpoint it is of, its module, and its named arrays.

    `inputs` and `outputs` give the arrays for a config at a floating-point dtype ("float32" or
    "float16").
    """

    name: str
    folder: str
    make: Callable[[Config], nn.Module]
    inputs: Callable[[Config, str], tuple[TensorSpec, ...]]
    outputs: Callable[[Config, str], tuple[TensorSpec, ...]]


def _text_inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    return (TensorSpec("inputs_embeds", ("batch", "sequence", config["hidden_size"]), dtype),)


def _text_outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    dims = ("batch", "sequence", config["hidden_size"])
    layers = range(config["num_hidden_layers"] + 1)
    names = ("last_hidden_state", *(f"hidden_states.{i}" for i in layers))
    return tuple(TensorSpec(name, dims, dtype) for name in names)


def _unet_inputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    text = ("batch", "sequence", config["cross_attention_dim"])
    return (
        TensorSpec("sample", ("batch", config["in_channels"], "height", "width"), dtype),
        TensorSpec("timestep", ("batch",), "float32"),
        TensorSpec("encoder_hidden_states", text, dtype),
    )


def _unet_outputs(config: Config, dtype: str) -> tuple[TensorSpec, ...]:
    dims = ("batch", config["out_channels"], "height", "width")
    return (TensorSpec("model_output", dims, dtype),)


def vae_factor(config: Config) -> int:
    """Pixels per latent along each axis."""
    return 2 ** (len(config["block_out_channels"]) - 1)


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


COMPONENTS: Final = (
    Component("text_encoder", "text_encoder", TextEncoder, _text_inputs, _text_outputs),
    Component("unet", "unet", _unet, _unet_inputs, _unet_outputs),
    Component("vae_decoder", "vae", _vae_decoder, _decoder_inputs, _decoder_outputs),
    Component("vae_encoder", "vae", _vae_encoder, _encoder_inputs, _encoder_outputs),
)
"""The graphs of an SD 1.x checkpoint, in the order they are made."""
