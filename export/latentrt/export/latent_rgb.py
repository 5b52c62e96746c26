"""The matrix of fast previews, fitted to a VAE that PyTorch runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from latentrt.bundle.manifest import LatentRgb, Manifest
from latentrt.bundle.tensors import TensorFile
from latentrt.export.modules import TRACED
from latentrt.export.reference import loaded
from latentrt.runtime.conversion.latent_rgb import Call, fit_latent_rgb


def fitted_latent_rgb(folder: Path, manifest: Manifest) -> LatentRgb | None:
    """The matrix of a bundle's VAE with its stored weights; None for one that gives NaN."""
    vae = {name: _call(folder, manifest, name) for name in ("vae_encoder", "vae_decoder")}
    return fit_latent_rgb(vae, manifest)


def _call(folder: Path, manifest: Manifest, component: str) -> Call:
    record = manifest.components[component]
    weights = TensorFile(folder / record.weights)

    def answer(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        with loaded(TRACED[component], record.config, weights) as module, torch.inference_mode():
            # One at a time, since memory is what large VAEs lack.
            found = [module(torch.from_numpy(row[None])) for row in rows]
        return torch.cat(found).numpy()

    return answer
