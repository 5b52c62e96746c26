"""Latents between the U-Net and the VAE, in both directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.manifest import Manifest


def for_vae(latents: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """The U-Net's latents [..., c, h, w] as the VAE has them, float32.

    Source: diffusers' `StableDiffusionXLPipeline` where the VAE states a mean and a standard
    deviation for each channel, else its `StableDiffusionPipeline`.
    """
    scaling = np.float32(manifest.vae_scaling)
    normal = _normal(manifest)
    if normal is None:
        return latents / scaling + np.float32(manifest.vae_shift)
    mean, std = normal
    return latents * std / scaling + mean


def from_vae(latents: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """The VAE's latents [..., c, h, w] as the U-Net has them, float32: `for_vae` undone.

    Source: diffusers' `StableDiffusionXLImg2ImgPipeline.prepare_latents`.
    """
    scaling = np.float32(manifest.vae_scaling)
    normal = _normal(manifest)
    if normal is None:
        return (latents - np.float32(manifest.vae_shift)) * scaling
    mean, std = normal
    return (latents - mean) * scaling / std


def _normal(manifest: Manifest) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """A mean and a standard deviation for each channel, [c, 1, 1], where the VAE states them."""
    if manifest.latents_mean is None or manifest.latents_std is None:
        return None
    mean, std = (
        np.array(numbers, np.float32)[:, None, None]
        for numbers in (manifest.latents_mean, manifest.latents_std)
    )
    return mean, std
