"""How large pictures may be, so that no request takes all of a machine's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import Manifest
from latentrt.engines.registry import backend
from latentrt.engines.verification.records import ORACLE
from latentrt.runtime.size import Size

_LARGER: Final = 16
"""By default, pictures have at most as many times the pixels of the checkpoint's own size."""
_AT_LEAST: Final = 1024 * 1024
"""Pixels that are allowed whatever the checkpoint's own size is."""
_VAE_ARRAYS: Final = 3
"""Arrays of a decoder's widest layer that are in memory at once.

models/shapes' decoder at 512x512: 3.2 of them with OpenVINO, 4.7 with ONNX Runtime.
"""
_ATTENTION_ARRAYS: Final = 2
"""Attention matrices in memory at once: before and after softmax.

models/shapes' U-Net at 768x768 takes 1.9 of them more with ONNX Runtime than at 128x128.
"""
_FLOAT: Final = 4
_PIXEL: Final = 3


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """What decides whether a size is allowed.

    `max_pixels` is the operator's own limit of one picture, width times height. Where it is None,
    pictures have at most 16 times the pixels of the checkpoint's own size (or 1024x1024, if that is
    more). The largest arrays then take at most `memory` bytes (None: not counted).
    `whole_attention` says that an engine keeps whole attention matrices, as ONNX Runtime does.
    """

    manifest: Manifest
    max_pixels: int | None
    memory: int | None
    whole_attention: bool

    @staticmethod
    def of(
        manifest: Manifest,
        engines: Collection[str],
        *,
        max_pixels: int | None,
        memory: int | None,
        verified: bool,
    ) -> SizeLimit:
        """For the backends of these names; `verified`: new ones are compared at their own size.

        The memory of other devices is not known.
        """
        on_cpu = all(backend(name).device == "cpu" for name in engines)
        # That is with ONNX Runtime.
        whole = ORACLE in engines or (verified and backend(ORACLE).status().usable)
        return SizeLimit(manifest, max_pixels, memory if on_cpu else None, whole)

    def check(
        self, size: Size, *, rows: int, decodes: int = 1, images: int = 1, tiled: bool = False
    ) -> None:
        """Raise `InputError` for pictures that are too large.

        `rows` and `decodes` are the largest batches of the U-Net and of the VAE decoder, `images`
        how many pictures a request has; `tiled`: these are decoded in tiles.
        """

        def fits(size: Size) -> bool:
            pixels = size.width * size.height
            if self.max_pixels is not None:
                return pixels <= self.max_pixels
            if pixels <= self._own_pixels:
                return True  # what the checkpoint was made for
            if pixels > max(_LARGER * self._own_pixels, _AT_LEAST):
                return False
            return (
                self.memory is None
                or self._needed(size, rows, 0 if tiled else decodes, images) <= self.memory
            )

        if not fits(size):
            raise InputError("size", f"at most {self._largest(fits)} pixels ({self._reason})", size)

    def decodes(self, size: Size, count: int) -> bool:
        """Whether half of the memory is enough to decode as many pictures at once."""
        return self.memory is None or 2 * self._needed(size, 0, count, 0) <= self.memory

    def allows(self, size: Size, *, rows: int) -> bool:
        """Whether as many rows at once, beyond those of one picture, leave half of the memory."""
        return self.memory is None or 2 * self._needed(size, rows, 1, 1) <= self.memory

    def _largest(self, fits: Callable[[Size], bool]) -> Size:
        """The largest square that is allowed."""
        factor = self.manifest.vae_factor
        low, high = 1, 16384 // factor
        while low < high:
            middle = (low + high + 1) // 2
            side = middle * factor
            low, high = (middle, high) if fits(Size(side, side)) else (low, middle - 1)
        return Size(low * factor, low * factor)

    @property
    def _reason(self) -> str:
        if self.max_pixels is not None:
            return f"max_pixels is {self.max_pixels}"
        return "the limit of this model and this machine's memory; max_pixels sets another"

    @property
    def _own_pixels(self) -> int:
        return math.prod(n * self.manifest.vae_factor for n in self.manifest.sample_size)

    def _needed(self, size: Size, rows: int, decodes: int, images: int) -> int:
        """Bytes that the largest arrays of such pictures take at once, weights not counted."""
        pixels = size.width * size.height
        places = pixels // self.manifest.vae_factor**2
        decoding = decodes * pixels * self._decoder_width * _FLOAT * _VAE_ARRAYS
        attending = 0
        if self.whole_attention:
            step = rows * self._unet_heads * (places // self._unet_shrinking) ** 2
            middle = decodes * places**2 if self._decoder_attends else 0
            attending = max(step, middle) * _FLOAT * _ATTENTION_ARRAYS
        return max(decoding, attending) + images * pixels * _PIXEL

    @property
    def _decoder_width(self) -> int:
        """Channels of the decoder's widest array at the size of the picture."""
        channels = _integers(self._config("vae_decoder").get("block_out_channels"))
        return max(channels[:2], default=0)

    @property
    def _decoder_attends(self) -> bool:
        return bool(self._config("vae_decoder").get("mid_block_add_attention", True))

    @property
    def _unet_shrinking(self) -> int:
        """Places of a latent for each place of the first level with attention."""
        return 4**self._attention_level

    @property
    def _unet_heads(self) -> int:
        """Attention heads of that level; 0 where the config does not tell."""
        config = self._config("unet")
        stated = config.get("num_attention_heads") or config.get("attention_head_dim")
        heads = _integers(stated)
        return heads[min(self._attention_level, len(heads) - 1)] if heads else 0

    @property
    def _attention_level(self) -> int:
        stated = self._config("unet").get("down_block_types")
        kinds = cast("Sequence[object]", stated) if isinstance(stated, list | tuple) else ()
        levels = [level for level, kind in enumerate(kinds) if "Attn" in str(kind)]
        return levels[0] if levels else max(len(kinds) - 1, 0)

    def _config(self, component: str) -> Mapping[str, Any]:
        record = self.manifest.components.get(component)
        return {} if record is None else record.config


def _integers(value: object) -> list[int]:
    """A config's number or list of numbers; nothing where it is neither."""
    values = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [value]
    return [n for n in values if isinstance(n, int) and n > 0]
