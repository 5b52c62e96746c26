"""The matrix of fast previews, fitted to a VAE by least squares.

The VAE encodes pictures of overlapping discs, whose sizes follow a power law as those of things in
photographs do. It decodes what it encoded. The matrix gives the mean colour of each latent's square
of pixels.

Source: A. Lee, D. Mumford, J. Huang: Occlusion models for natural images, 2001.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import Unavailable
from latentrt.bundle.manifest import LatentRgb, Manifest
from latentrt.runtime.latents import from_vae
from latentrt.weights.bundle_writer import write_manifest
from latentrt.weights.known_vaes import known_latent_rgb

_SEED: Final = 19
_PICTURES: Final = 16
_PLACES: Final = 8
"""Latents along each side of a picture."""
_DISCS: Final = 100
_RADII: Final = (1.0, 16.0)
"""Of discs, in latents: from one to more than a picture."""
_DIGITS: Final = 4
_ENGINES: Final = ("onnxruntime", "auto")
"""The first of them that is installed: ONNX Runtime compiles in a third of OpenVINO's time."""

Array = NDArray[np.float32]
Call = Callable[[Array], Array]
Vae = Mapping[str, Call]
"""Moments [n, 2c, h, w] of "images" by `vae_encoder`, images of "latents" by `vae_decoder`."""


def pictures(factor: int) -> Array:
    """Overlapping discs in random colours, float32 [n, 3, H, W] in [-1, 1]."""
    rng = np.random.default_rng(_SEED)
    side = _PLACES * factor
    rows, columns = np.ogrid[:side, :side]
    smallest, largest = (math.pow(radius, -2.0) for radius in _RADII)
    found = np.empty((_PICTURES, 3, side, side), np.float32)
    for picture in found:
        picture[:] = rng.uniform(-1, 1, (3, 1, 1))
        for _ in range(_DISCS):
            # The density of radii is proportional to r^-3.
            radius = factor * math.pow(rng.uniform(largest, smallest), -0.5)
            y, x = rng.uniform(-side / 2, side * 3 / 2, 2)
            inside: NDArray[np.bool_] = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            picture[:, inside] = rng.uniform(-1, 1, (3, 1))
    return found


def fit_latent_rgb(vae: Vae, manifest: Manifest) -> LatentRgb | None:
    """The matrix [c + 1, 3] that is nearest to a VAE: a row for each channel, then the bias.

    It takes latents as the U-Net has them to colours in [-1, 1]. None for a VAE that gives NaN.
    """
    factor = manifest.vae_factor
    mean, log_variance = np.split(vae["vae_encoder"](pictures(factor)), 2, axis=1)
    noise = np.random.default_rng(_SEED).standard_normal(mean.shape, np.float32)
    std = np.exp(np.float32(0.5) * np.clip(log_variance, -30, 20))
    sampled: Array = mean + std * noise
    decoded = np.clip(vae["vae_decoder"](sampled), -1, 1)
    if not np.isfinite(decoded).all():
        return None
    n, _, height, width = decoded.shape
    squares = decoded.reshape(n, 3, height // factor, factor, width // factor, factor)
    colours = squares.mean((3, 5), np.float64).transpose(0, 2, 3, 1).reshape(-1, 3)
    latents = from_vae(sampled, manifest).transpose(0, 2, 3, 1).reshape(len(colours), -1)
    ones = np.ones((len(colours), 1))
    found = cast("Any", np.linalg.lstsq)(np.hstack([latents.astype(np.float64), ones]), colours)
    matrix: NDArray[np.float64] = found[0]
    rows: list[list[float]] = np.round(matrix, _DIGITS).tolist()
    return tuple((r, g, b) for r, g, b in rows)


def latent_rgb(bundle: Bundle) -> LatentRgb | None:
    """The matrix of a bundle's VAE, published or fitted; None without an engine to fit it with."""
    manifest = bundle.manifest
    decoder = manifest.components["vae_decoder"].config
    known = known_latent_rgb(decoder, manifest.vae_scaling, manifest.latents_mean)
    return known or _fitted(bundle)


def state_latent_rgb(folder: Path) -> None:
    """Fit the matrix of a new bundle with an engine, and write it into the bundle."""
    bundle = Bundle.open(folder)
    write_manifest(folder, replace(bundle.manifest, latent_rgb=_fitted(bundle)))


def _fitted(bundle: Bundle) -> LatentRgb | None:
    from latentrt.runtime.pipeline import Pipeline  # which makes bundles itself

    side = _PLACES * bundle.manifest.vae_factor
    sizes = {
        "vae_encoder": {"batch": 1, "image_height": side, "image_width": side},
        "vae_decoder": {"batch": 1, "height": _PLACES, "width": _PLACES},
    }

    def call(pipeline: Pipeline, component: str) -> Call:
        # One picture at a time, since memory is what large VAEs lack.
        engine = pipeline.engine(component, sizes[component])
        (given,) = engine.inputs
        (wanted,) = engine.outputs

        def answer(rows: Array) -> Array:
            found = [engine({given.name: row[None].astype(given.dtype)}) for row in rows]
            return np.concatenate([outputs[wanted.name] for outputs in found]).astype(np.float32)

        return answer

    for engine in _ENGINES:
        with (
            contextlib.suppress(Unavailable),
            Pipeline(bundle, engine, precision="fp32", guarded=False) as pipeline,
        ):
            calls = {name: call(pipeline, name) for name in sizes}
            return fit_latent_rgb(calls, bundle.manifest)
    return None
