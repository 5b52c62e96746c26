"""Inputs for one call of each component."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.spec import TensorSpec
from latentrt.runtime.conditioning import Conditioner

TIMESTEP: Final = 500.0
_SEED: Final = 0


def sizes_of(bundle: Bundle) -> dict[str, dict[str, int]]:
    """The size of every symbol of each component, for one guided picture of the bundle's own size.

    The U-Net has two rows, or one where it takes the guidance scale as an input.
    """
    manifest, conditioner = bundle.manifest, Conditioner(bundle)
    height, width = manifest.sample_size
    factor, length = manifest.vae_factor, conditioner.length
    latent = {"height": height, "width": width}
    found: dict[str, dict[str, int]] = {}
    for name in manifest.components:
        if name.startswith("text_encoder"):
            found[name] = {"batch": 1, "sequence": length}
        elif name == "unet":
            found[name] = {"batch": 1 + conditioner.guided, **latent, "sequence": length}
        elif name == "vae_encoder":
            pixels = {"image_height": height * factor, "image_width": width * factor}
            found[name] = {"batch": 1, **pixels}
        else:
            found[name] = {"batch": 1, **latent}
    return found


def noise_for(specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    """Seeded noise for every input, and one timestep: a call takes as long whatever it is told."""
    rng = np.random.default_rng(_SEED)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in specs:
        noise = rng.standard_normal(spec.shape({}), dtype=np.float32)
        array = np.full_like(noise, TIMESTEP) if spec.name == "timestep" else noise
        arrays[spec.name] = array.astype(spec.dtype)
    return arrays
