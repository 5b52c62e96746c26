"""Matrices from latents to colours that were published for the VAEs of Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from latentrt.bundle.manifest import LatentRgb

_LAYERS: Final[Mapping[str, Any]] = {
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}
_PUBLISHED: Final[Mapping[float, LatentRgb]] = {
    0.18215: (
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
        (0.0, 0.0, 0.0),
    ),
    0.13025: (
        (0.3651, 0.4232, 0.4341),
        (-0.2533, -0.0042, 0.1068),
        (0.1076, 0.1111, -0.0362),
        (-0.3165, -0.2492, -0.2188),
        (0.1084, -0.0175, -0.0011),
    ),
}
"""By the scaling factor of the VAE: Stable Diffusion 1 and 2, then XL.

Source: the factors of `SD15` and `SDXL` in ComfyUI's `latent_formats.py`.
"""


def known_latent_rgb(
    config: Mapping[str, Any], scaling: float, mean: tuple[float, ...] | None
) -> LatentRgb | None:
    """The matrix of a VAE by its config, None for a VAE of another architecture.

    `scaling` and `mean` are those of its latents. The weights are not looked at: every VAE of this
    architecture and scale is taken for one that decodes the latents of Stable Diffusion.
    """
    stated = {name: config.get(name) for name in _LAYERS}
    stated["block_out_channels"] = list(stated["block_out_channels"] or ())
    if stated != _LAYERS or mean is not None:
        return None
    return _PUBLISHED.get(scaling)
