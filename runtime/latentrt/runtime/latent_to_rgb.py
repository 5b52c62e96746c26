"""Previews without a model: the colours of a latent by one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.manifest import Manifest
from latentrt.weights.known_vaes import known_latent_rgb

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, eq=False)
class LatentToRgb:
    """A linear approximation of a VAE's decoder. Thread-safe.

    `weight` float32 [3, c] and `bias` [3, 1] give colours from 0 to 255.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @staticmethod
    def of(manifest: Manifest) -> LatentToRgb | None:
        """That of a bundle; None for a bundle of an older version with a VAE that is not known."""
        decoder = manifest.components["vae_decoder"].config
        known = known_latent_rgb(decoder, manifest.vae_scaling, manifest.latents_mean)
        rows = manifest.latent_rgb or known
        if rows is None:
            return None
        matrix = np.array(rows, np.float32).T * np.float32(127.5)
        return LatentToRgb(matrix[:, :-1], matrix[:, -1:] + np.float32(127.5))

    def __call__(self, latent: NDArray[np.float32]) -> Image.Image:
        """A latent float32 [c, h, w] as the U-Net has it to a picture of w x h pixels."""
        from PIL import Image

        channels, height, width = latent.shape
        colours: NDArray[Any] = self.weight @ latent.reshape(channels, -1)
        colours += self.bias
        np.rint(colours, out=colours)
        np.clip(colours, 0, 255, out=colours)
        pixels = colours.astype(np.uint8).T.reshape(height, width, 3)
        return Image.fromarray(np.ascontiguousarray(pixels))
