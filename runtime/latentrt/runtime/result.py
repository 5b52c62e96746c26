"""What a finished run gives: pictures, their latents, and how they were made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import as_path, integer, shown
from latentrt.bundle.errors import InputError
from latentrt.bundle.publish import write_file
from latentrt.runtime.image import FORMATS, QUALITY, Format, encode, format_of, parameters
from latentrt.runtime.request import Request
from latentrt.runtime.schedules import Schedule

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
    the seed, size and provenance that were used; `schedule` the noise levels that were visited;
    `notes` say what a caller should know, such as a prompt that was cut.
    """

    images: tuple[Image.Image, ...]
    latents: NDArray[np.float32]
    noise: NDArray[np.float32]
    request: Request
    schedule: Schedule
    model: str
    seconds: Seconds
    notes: tuple[str, ...] = ()

    @property
    def sampler(self) -> str:
        """The name of the sampler that was used."""
        return self.schedule.sampler

    def save(self, output: Path | str | BinaryIO, *, quality: int = QUALITY) -> tuple[Path, ...]:
        """Write the pictures with their generation parameters; gives the files' names.

        A name ends in .png, .jpg, .jpeg or .webp, and several pictures are numbered `out-0.png`,
        ...; each file is written whole or not at all. A binary file object is given one PNG, and
        no name. `quality` is JPEG's and WebP's, from 1 to 100. Raises `InputError` for a place that
        cannot be written and for what the format cannot hold.
        """
        if hasattr(output, "write"):
            self._write(cast("BinaryIO", output))
            return ()
        target = as_path("output", output)
        kind = format_of(target)
        many = len(self.images) > 1
        names = [
            target.with_name(f"{target.stem}-{i}{target.suffix}") if many else target
            for i in range(len(self.images))
        ]
        for i, name in enumerate(names):
            write_file(name, self.encode(i, kind, quality=quality))
        return tuple(names)

    def png(self, index: int = 0) -> bytes:
        """Picture `index` as a PNG with its generation parameters."""
        return self.encode(index, "PNG")

    def encode(self, index: int, kind: Format, *, quality: int = QUALITY) -> bytes:
        """Picture `index` as a PNG, JPEG or WEBP file with its generation parameters.

        Raises `InputError` for an index out of range and for what the format cannot hold.
        """
        if kind not in FORMATS.values():
            raise InputError("format", "PNG, JPEG or WEBP", shown(kind))
        quality = integer("quality", "an integer from 1 to 100", quality, 1, 100)
        request = self.request_of(index)
        return encode(self.images[index], kind, request, self.model, self.schedule, quality=quality)

    def parameters(self, index: int) -> str:
        """The generation parameters of picture `index`, as web UIs write them."""
        return parameters(self.request_of(index), self.model, self.schedule)

    def request_of(self, index: int) -> Request:
        """The request that makes picture `index` alone."""
        last = len(self.images) - 1
        index = integer("index", f"an integer from 0 to {last}", index, 0, last)
        return self.request.of_image(index)

    def _write(self, file: BinaryIO) -> None:
        if len(self.images) > 1:
            expected = "a file's name: a file object holds one picture"
            raise InputError("output", expected, f"{len(self.images)} pictures")
        try:
            file.write(self.png())
        except (TypeError, ValueError, OSError) as error:  # of text, closed, or full
            expected = "a binary file that can be written"
            raise InputError("output", expected, f"{shown(file)} ({error})") from error
