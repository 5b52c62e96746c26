"""Pictures that come in: RGB arrays, their hashes, and how a VAE takes them."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime.size import LARGEST, Size

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]
"""RGB, uint8 [h, w, 3]."""


def unchanged(pixels: Pixels) -> Pixels:
    """The same picture."""
    return pixels


def as_pixels(field: str, value: object) -> Pixels:
    """A picture as a read-only RGB array of its own; raises `InputError` for what is none.

    Of a Pillow image with transparency only the colours count.
    """
    return as_picture(field, value, mode="RGB", dtype="uint8", channels=(3,))


def as_picture(
    field: str, value: object, *, mode: str, dtype: str, channels: tuple[int, ...] = ()
) -> NDArray[Any]:
    """A Pillow image in a `mode`, or an array [h, w, *channels] of a dtype, as a read-only copy.

    Raises `InputError` for anything else.
    """
    axes = ", ".join(("height", "width", *map(str, channels)))
    expected = f"a Pillow image, or a {dtype} array [{axes}]"
    if not isinstance(value, np.ndarray):
        convert = getattr(value, "convert", None)
        if convert is None:
            raise InputError(field, expected, shown(value))
        value = np.asarray(convert(mode))
    array = cast("NDArray[Any]", value)
    wanted = array.ndim == 2 + len(channels) and array.shape[2:] == channels and array.size > 0
    if array.dtype != np.dtype(dtype) or not wanted:
        raise InputError(field, expected, f"{array.dtype} of shape {array.shape}")
    if max(array.shape) > LARGEST:
        raise InputError(field, f"at most {LARGEST} pixels a side", f"shape {array.shape}")
    own: NDArray[Any] = np.array(array, order="C")
    own.flags.writeable = False
    return own


def read_pixels(path: Path) -> Pixels:
    """A file's picture in RGB; raises `FileError` for a file that is none."""
    return as_pixels("image", read_image(path))


def read_image(path: Path) -> Image.Image:
    """A file's picture, turned as its EXIF says; raises `FileError` for a file that is none."""
    from PIL import Image, ImageOps

    if not path.exists():
        raise FileError(path, "no such file")
    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore")  # of damaged metadata
            turned = ImageOps.exif_transpose(picture)
            turned.load()
            return turned
    except Image.DecompressionBombError as error:
        raise FileError(path, f"is too large: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise FileError(path, f"is not a readable picture: {error}") from error


def pixels_sha256(pixels: NDArray[Any]) -> str:
    """SHA-256 of a picture: its shape, then its bytes."""
    array = np.ascontiguousarray(pixels)
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


def to_pixels(images: NDArray[np.float32]) -> Pixels:
    """RGB from float32 [3, h, w] in [-1, 1]; values outside are clipped."""
    scaled = np.clip(images.transpose(1, 2, 0) * 0.5 + 0.5, 0.0, 1.0) * 255
    return np.round(scaled).astype(np.uint8)


def resized(array: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """A picture [h, w, 3] or a mask [h, w] at another size, by Lanczos; the same at its own."""
    if array.shape[:2] == (size.height, size.width):
        return array
    from PIL import Image

    picture = Image.fromarray(array)
    return np.asarray(picture.resize((size.width, size.height), Image.Resampling.LANCZOS))


def for_vae_encoder(pixels: Pixels, size: Size) -> NDArray[np.float32]:
    """A picture of a size, float32 [3, h, w] in [-1, 1]; Lanczos resizes it where it has another.

    Source: diffusers' `VaeImageProcessor.preprocess`.
    """
    return np.float32(2.0) * for_hint(pixels, size) - np.float32(1.0)


def for_hint(pixels: Pixels, size: Size) -> NDArray[np.float32]:
    """The same in [0, 1], as a ControlNet takes it.

    Source: `control_image_processor` of diffusers' `StableDiffusionControlNetPipeline`.
    """
    pixels = resized(pixels, size)
    return pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255.0)
