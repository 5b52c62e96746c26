"""The PyTorch modules behind a ControlNet's graphs, in the form that is traced.

They are diffusers' `ControlNetModel`, cut in two: what encodes the picture runs once a picture, and
the rest at every step. Parameters keep the checkpoint's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from latentrt.weights.control_specs import CONTROLNET, HINT_ENCODER
from latentrt.weights.parts import Shapes
from latentrt.weights.source import Config


class HintEncoder(nn.Module):
    """A picture in [0, 1] to what a ControlNet adds to its first layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.controlnet_cond_embedding = _whole(config).controlnet_cond_embedding

    def forward(self, controlnet_cond: Tensor) -> Tensor:
        return self.controlnet_cond_embedding(controlnet_cond)


class ControlNet(ControlNetModel):
    """Latents, timesteps, conditioning and an encoded picture to residuals, neither scaled."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        hint: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        # Sizes are embedded in float32. PyTorch promotes the text joined to them, ONNX does not.
        pooled = None if text_embeds is None else text_embeds.float()
        added = {"text_embeds": pooled, "time_ids": time_ids}
        down, mid = super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            controlnet_cond=hint,
            added_cond_kwargs=cast("dict[str, Tensor]", added),
            return_dict=False,
        )
        return (*down, mid)


_ELSEWHERE: Final = {
    "global_pool_conditions": False,
    "controlnet_conditioning_channel_order": "rgb",
}
"""What the runtime does itself: the order of colours, and pooling after scaling."""


def _whole(config: Config, kind: Any = ControlNetModel) -> Any:
    fields = {k: v for k, v in config.items() if k != "_class_name"}
    return kind.from_config({**fields, **_ELSEWHERE})


def controlnet(config: Config) -> nn.Module:
    """A ControlNet that is given the encoded picture."""
    module = _whole(config, ControlNet)
    module.controlnet_cond_embedding = nn.Identity()
    return module


CONTROL_TRACED: Final[Mapping[str, Callable[[Config], nn.Module]]] = {
    HINT_ENCODER: HintEncoder,
    CONTROLNET: controlnet,
}
"""The module that is traced for a component, by the component's name."""


def described_control(folder: str, config: Config) -> Shapes:
    """The shapes of a ControlNet's tensors by name.

    Raises whatever diffusers says of a config that it cannot build.
    """
    del folder
    with torch.device("meta"):
        module = _whole(config)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
