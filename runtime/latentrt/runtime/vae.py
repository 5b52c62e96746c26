"""The VAE of a model: latents to pixels and back, whole or in tiles, once more in fp32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import NonFinite
from latentrt.bundle.manifest import Manifest
from latentrt.runtime.checks import all_finite
from latentrt.runtime.latents import for_vae, from_vae
from latentrt.runtime.noise import Noise
from latentrt.runtime.rows import Evaluation, Model, Need, Row
from latentrt.runtime.tiles import Tile, joined, tiles

_LOG_VARIANCE: Final = (-30.0, 20.0)
"""Where diffusers' `DiagonalGaussianDistribution` keeps a logarithm of the variance."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What a VAE's encoder says of a picture: a normal distribution, float32 [c, h, w] each."""

    mean: Array
    std: Array
    manifest: Manifest

    def sample(self, noise: Noise) -> Array:
        """A latent of the distribution as the U-Net has it, with the next numbers of the noise."""
        latent: Array = self.std * noise.normal(self.mean.shape) + self.mean
        return from_vae(latent, self.manifest)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Pixels [3, H, W] in [-1, 1], and what a caller should know of how they were made."""

    pixels: Array
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Vae:
    """Decoder and encoder of a bundle.

    `wide` are the same in fp32, by component, where the engines compute in 16 bits: they are asked
    once more where these overflow. `tiled` splits large pictures, so that memory does not grow.
    """

    manifest: Manifest
    decoder: Model
    encoder: Model | None
    wide: tuple[Model, ...] = ()
    tiled: bool = False

    def decode(self, latent: Array) -> Evaluation[Decoded]:
        """A latent [c, h, w] as the U-Net has it to pixels.

        Raises `NonFinite` if they are NaN or infinite in fp32, too.
        """
        latent = for_vae(latent, self.manifest)
        pixels = yield from self._decoded(self.decoder, latent)
        if all_finite(pixels):
            return Decoded(pixels)
        wide = self._wide("vae_decoder")
        if wide is not None:
            pixels = yield from self._decoded(wide, latent)
        if not all_finite(pixels):
            raise NonFinite("vae_decoder")
        return Decoded(pixels, ("vae_decoder: not finite in 16 bits, decoded once more in fp32",))

    def encode(self, images: Array) -> Evaluation[Posterior]:
        """A picture, float32 [3, H, W] in [-1, 1]; raises `NonFinite` as `decode` does."""
        assert self.encoder is not None
        moments = yield from self._encoded(self.encoder, images)
        wide = self._wide("vae_encoder")
        if not all_finite(moments) and wide is not None:
            moments = yield from self._encoded(wide, images)
        if not all_finite(moments):
            raise NonFinite("vae_encoder")
        mean, log_variance = np.split(moments, 2)
        std = np.exp(np.float32(0.5) * np.clip(log_variance, *_LOG_VARIANCE))
        return Posterior(mean, std.astype(np.float32, copy=False), self.manifest)

    def decoder_row(self, latent: Array) -> Row:
        """What the decoder is asked about a latent [c, h, w] as the U-Net has it."""
        return Row(self.decoder, {self._name: for_vae(latent, self.manifest)})

    def in_tiles(self) -> Vae:
        """The same in tiles."""
        return replace(self, tiled=True)

    def decoder_need(self, height: int, width: int) -> Need:
        """What it calls to decode latents of a height and width."""
        if self.tiled:
            tile = tiles(height, width)[0]
            height, width = tile.height, tile.width
        latent = np.empty((self.manifest.latent_channels, height, width), np.float32)
        return Need.of(Row(self.decoder, {self._name: latent}), 1)

    def encoder_need(self, height: int, width: int) -> Need:
        """What it calls to encode to latents of a height and width."""
        assert self.encoder is not None
        if self.tiled:
            tile = tiles(height, width)[0]
            height, width = tile.height, tile.width
        factor = self.manifest.vae_factor
        images = np.empty((3, height * factor, width * factor), np.float32)
        return Need.of(Row(self.encoder, {"images": images}), 1)

    def _decoded(self, decoder: Model, latent: Array) -> Evaluation[Array]:
        if not self.tiled:
            (outputs,) = yield [Row(decoder, {self._name: latent})]
            return outputs["images"]
        parts: list[tuple[Tile, Array]] = []
        for tile in tiles(*latent.shape[1:]):  # one at a time: that is what memory bears
            (outputs,) = yield [Row(decoder, {self._name: tile.of(latent)})]
            parts.append((tile, outputs["images"]))
        return joined(parts, self.manifest.vae_factor)

    def _encoded(self, encoder: Model, images: Array) -> Evaluation[Array]:
        if not self.tiled:
            (outputs,) = yield [Row(encoder, {"images": images})]
            return outputs["moments"]
        factor = self.manifest.vae_factor
        parts: list[tuple[Tile, Array]] = []
        for tile in tiles(*(n // factor for n in images.shape[1:])):
            (outputs,) = yield [Row(encoder, {"images": tile.of(images, factor)})]
            parts.append((tile, outputs["moments"]))
        return joined(parts)

    @property
    def _name(self) -> str:
        (spec,) = self.decoder.inputs
        return spec.name

    def _wide(self, component: str) -> Model | None:
        return next((each for each in self.wide if each.component == component), None)
