"""Latents as the VAE has them, against diffusers' own words for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from latentrt.bundle.bundle import Bundle
from latentrt.runtime.latents import for_vae

LATENTS = np.random.default_rng(0).standard_normal((2, 4, 3, 5), dtype=np.float32)
ROUNDING = 1e-6
"""Relative: three operations of single precision on either side."""


def test_the_scaling_factor_divides_and_the_shift_is_added(bundle: Callable[[str], Path]) -> None:
    manifest = replace(Bundle.open(bundle("heads")).manifest, vae_scaling=0.3611, vae_shift=0.1159)
    expected = torch.from_numpy(LATENTS) / 0.3611 + 0.1159
    np.testing.assert_allclose(for_vae(LATENTS, manifest), expected, rtol=ROUNDING, atol=ROUNDING)


def test_statistics_by_channel_take_the_place_of_the_shift(bundle: Callable[[str], Path]) -> None:
    # Playground v2.5's, whose pipeline is SDXL's.
    mean, std = (-1.6574, 1.886, -1.383, 2.5155), (8.4927, 5.9022, 6.5498, 5.2299)
    manifest = replace(
        Bundle.open(bundle("heads")).manifest,
        vae_scaling=0.5,
        vae_shift=9.0,
        latents_mean=mean,
        latents_std=std,
    )
    found = for_vae(LATENTS, manifest)
    # StableDiffusionXLPipeline.__call__, after the loop.
    latents_mean = torch.tensor(mean).view(1, 4, 1, 1)
    latents_std = torch.tensor(std).view(1, 4, 1, 1)
    expected = torch.from_numpy(LATENTS) * latents_std / 0.5 + latents_mean
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING)
