"""The PyTorch module behind a CLIP's image encoder, in the form that is traced.

It is transformers' own, with the checkpoint's names. The text encoder is that of SDXL.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from latentrt.export.modules import QuickGelu, described
from latentrt.weights.clip_specs import IMAGE_ENCODER
from latentrt.weights.configs import IMAGE_DEFAULTS
from latentrt.weights.parts import Shapes
from latentrt.weights.source import Config


class ImageEncoder(nn.Module):
    """Pictures, prepared, to their embeddings; neither is scaled to unit length."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        fields = {name: config[name] for name in IMAGE_DEFAULTS}
        self.vision_model = CLIPVisionModel(CLIPVisionConfig(**fields))
        self.vision_model.set_attn_implementation("sdpa")
        model: Any = self.vision_model
        if model.config.hidden_act == "quick_gelu":
            for layer in model.encoder.layers:
                layer.mlp.activation_fn = QuickGelu()
        self.visual_projection = nn.Linear(
            config["hidden_size"], config["projection_dim"], bias=False
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        model: Any = self.vision_model
        embeddings = model.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        whole = embeddings.class_embedding.expand(patches.shape[0], 1, -1)
        # Not looked up through `position_ids`, a buffer that no checkpoint owns.
        hidden = torch.cat([whole, patches], dim=1) + embeddings.position_embedding.weight
        hidden = model.pre_layrnorm(hidden)
        for layer in model.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
        return self.visual_projection(model.post_layernorm(hidden[:, 0]))


CLIP_TRACED: Final = {IMAGE_ENCODER: ImageEncoder}
"""The module that is traced for a component, by the component's name."""


def described_clip(folder: str, config: Config) -> Shapes:
    """The shapes of an encoder's tensors by name.

    Raises whatever transformers says of a config that it cannot build.
    """
    if folder != IMAGE_ENCODER:
        return described(folder, config)
    with torch.device("meta"):
        module = ImageEncoder(config)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
