"""The PyTorch module behind each component, in the form that is traced.

Each is the library's own module with a forward from named tensors to named tensors. Nothing of
the architecture is written again. Parameter names are the checkpoint's canonical ones: diffusers'
for U-Net and VAE, `text_model.` before a text encoder's. So an initialiser of a graph and a tensor
of a weights file have the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.weights.parts import Shapes
from latentrt.weights.source import Config


class QuickGelu(nn.Module):
    """transformers' `QuickGELUActivation` whose factor is exact in every dtype.

    PyTorch multiplies a 16-bit tensor by a number in float32. The exporter rounds the number first:
    1.702 becomes 1.7021 in float16 and 1.7031 in bfloat16.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * torch.sigmoid((1.702 * hidden.float()).to(hidden.dtype))


def _of_text(config: Config) -> Config:
    # A whole CLIPModel's config holds the text encoder's: CLIPTextConfig.from_pretrained.
    inner = config.get(CLIPTextConfig.base_config_key)
    return inner if isinstance(inner, Mapping) else config


class TextEncoderGraph(nn.Module):
    """CLIP text encoder from token embeddings to every hidden state."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        fields = {k: v for k, v in _of_text(config).items() if k not in ("torch_dtype", "dtype")}
        self.text_model = CLIPTextModel(CLIPTextConfig(**fields))
        self.text_model.set_attn_implementation("sdpa")
        model: Any = self.text_model
        if model.config.hidden_act == "quick_gelu":
            for layer in model.encoder.layers:
                layer.mlp.activation_fn = QuickGelu()

    def forward(self, inputs_embeds: Tensor) -> tuple[Tensor, ...]:
        # Sliced rather than looked up through `position_ids`, a buffer that no checkpoint owns.
        positions = self.text_model.embeddings.position_embedding.weight[: inputs_embeds.shape[1]]
        hidden = inputs_embeds + positions
        states = [hidden]
        for layer in self.text_model.encoder.layers:
            hidden = layer(hidden, attention_mask=None, is_causal=True)
            states.append(hidden)
        return (self.text_model.final_layer_norm(hidden), *states)


class TextEncoderWithProjection(TextEncoderGraph):
    """The same with the projection of the pooled state, which the runtime applies in NumPy."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        filled: Any = self.text_model.config
        self.text_projection = nn.Linear(filled.hidden_size, filled.projection_dim, bias=False)


class UNet(UNet2DConditionModel):
    """Noise predictor: latents, timesteps and conditioning to the raw model output.

    SDXL's takes the pooled text and six sizes as well, a distilled one its guidance scale.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        timestep_cond: Tensor | None = None,
    ) -> Tensor:
        # Sizes are embedded in float32. PyTorch promotes the text joined to them, ONNX does not.
        pooled = None if text_embeds is None else text_embeds.float()
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            timestep_cond=timestep_cond,
            added_cond_kwargs=cast("dict[str, Tensor]", added),
            return_dict=False,
        )[0]


class Vae(AutoencoderKL):
    """Encoder and decoder, as in a checkpoint."""


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


def unet(config: Config) -> nn.Module:
    """The U-Net of a config."""
    return _from_config(UNet, config)


def _vae(config: Config) -> nn.Module:
    return _from_config(Vae, config)


def vae_decoder(config: Config) -> nn.Module:
    """The half of a VAE that makes pictures."""
    module = _from_config(VaeDecoder, config)
    del module.encoder, module.quant_conv
    return module


def vae_encoder(config: Config) -> nn.Module:
    """The half of a VAE that reads pictures."""
    module = _from_config(VaeEncoder, config)
    del module.decoder, module.post_quant_conv
    return module


WHOLE: Final[Mapping[str, Callable[[Config], nn.Module]]] = {
    "text_encoder": TextEncoderGraph,
    "text_encoder_2": TextEncoderWithProjection,
    "unet": unet,
    "vae": _vae,
}
"""The module with all tensors of a checkpoint's folder."""

TRACED: Final[Mapping[str, Callable[[Config], nn.Module]]] = {
    "text_encoder": TextEncoderGraph,
    "text_encoder_2": TextEncoderGraph,
    "unet": unet,
    "vae_decoder": vae_decoder,
    "vae_encoder": vae_encoder,
}
"""The module that is traced for a component, by the component's name."""


def described(folder: str, config: Config) -> Shapes:
    """The shapes of a folder's tensors by name.

    Raises whatever a library says of a config that it cannot build.
    """
    with torch.device("meta"):
        module = WHOLE[folder](config)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
