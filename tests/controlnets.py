"""Tiny ControlNets for tests: copies of a tiny checkpoint's U-Net whose residuals are not zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from numpy.typing import NDArray


def controlnet_of(checkpoint: Path, seed: int = 0, **fields: Any) -> ControlNetModel:
    """A ControlNet for a checkpoint's U-Net, all of its weights random.

    Fresh ones end in convolutions of zeros, so that nothing would be seen of them. Their picture
    counts: another one moves the residuals by a tenth and more. `fields` are of its config.
    """
    torch.manual_seed(seed)
    unet: Any = UNet2DConditionModel.from_pretrained(checkpoint, subfolder="unet")
    config = dict(ControlNetModel.from_unet(unet).config)
    config.pop("_use_default_values", None)  # diffusers ignores what is given for these
    made: Any = ControlNetModel.from_config({**config, **fields})
    for name, parameter in made.named_parameters():
        if parameter.ndim == 1:
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            torch.nn.init.normal_(parameter, mean, 0.1)
        elif name.startswith("controlnet_cond_embedding."):
            # SiLU halves what goes through; smaller weights would leave nothing of the picture.
            torch.nn.init.normal_(parameter, 0.0, 1.6 / parameter[0].numel() ** 0.5)
        elif name.startswith("controlnet_"):
            torch.nn.init.normal_(parameter, 0.0, 0.3 / parameter[0].numel() ** 0.5)
    return made.eval()


def saved_controlnet(checkpoint: Path, folder: Path, seed: int = 0, **fields: Any) -> Path:
    """The same as a diffusers folder."""
    controlnet_of(checkpoint, seed, **fields).save_pretrained(folder)
    return folder


def hint_picture(seed: int = 0, width: int = 64, height: int = 64) -> NDArray[np.uint8]:
    """A picture with large areas, RGB."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    rows, columns = (np.arange(n) * 8 // n for n in (height, width))
    return coarse[rows][:, columns]
