"""What a finished run gives: pictures, their latents, and how they were made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.bundle.publish import write_file
from latentrt.runtime.image import to_png
from latentrt.runtime.request import Request, Size

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of a run went, in seconds.

    `compile` is of engines that were not there yet; `unet` and `vae` have what prepares their
    inputs in them; `total` is everything from the request to the pictures.
    """

    compile: float
    text: float
    unet: float
    vae: float
    total: float


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The pictures of a request.

    `images` are RGB; `latents` float32 [n, channels, h, w] is what the VAE decoded, before its
    scaling; `noise` of the same shape what the run started from, at unit variance; `request` has
    the seed, size and sampler that were used; `notes` say what a caller should know, such as a
    prompt that was cut.
    """

    images: tuple[Image.Image, ...]
    latents: NDArray[np.float32]
    noise: NDArray[np.float32]
    request: Request
    sampler: str
    model: str
    seconds: Seconds
    notes: tuple[str, ...] = ()

    def save(self, path: Path | str) -> tuple[Path, ...]:
        """Write PNGs with the generation parameters; several are numbered `out-0.png`, ...

        Each is written whole or not at all. Raises `InputError` for a place that cannot be written
        and for a name that does not end in .png.
        """
        target = Path(path)
        if target.suffix.lower() != ".png":
            raise InputError("output", "a name that ends in .png", str(target))
        many = len(self.images) > 1
        names = [
            target.with_name(f"{target.stem}-{i}{target.suffix}") if many else target
            for i in range(len(self.images))
        ]
        for i, (name, picture) in enumerate(zip(names, self.images, strict=True)):
            write_file(name, to_png(picture, self.request_of(i), self.model, self.sampler))
        return tuple(names)

    def request_of(self, index: int) -> Request:
        """The request that makes picture `index` alone."""
        given = self.request.latents
        seed = self.request.seed
        width, height = self.images[index].size
        return self.request.with_values(
            num_images=1,
            size=Size(width, height),
            seed=None if seed is None else seed + index,
            latents=None if given is None else given[index : index + 1],
        )
