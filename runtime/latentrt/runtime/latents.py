"""Latents on their way from the U-Net to the VAE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.manifest import Manifest


def for_vae(latents: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """The U-Net's latents [n, c, h, w] as the VAE has them, float32.

    Source: diffusers' `StableDiffusionXLPipeline` where the VAE states a mean and a standard
    deviation for each channel, else its `StableDiffusionPipeline`.
    """
    scaling = np.float32(manifest.vae_scaling)
    if manifest.latents_mean is None or manifest.latents_std is None:
        return latents / scaling + np.float32(manifest.vae_shift)
    mean, std = (
        np.array(numbers, np.float32)[:, None, None]
        for numbers in (manifest.latents_mean, manifest.latents_std)
    )
    return latents * std / scaling + mean
