"""Pictures in a body: base64 or data URLs to Pillow images."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import Final

from PIL import Image, ImageOps

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.size import LARGEST

MOST_PIXELS: Final = 32 << 20
"""Pixels of a picture that is read, such as 8192 x 4096. A small file can hold many more."""
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def picture_of(field: str, content: bytes) -> Image.Image:
    """A file's picture, turned as its EXIF says.

    Its size is read from the header before a pixel is. Raises `InputError` naming the field.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes checked here
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                _check_size(field, picture.size)
                turned = ImageOps.exif_transpose(picture)
                turned.load()
                return turned
    except Image.DecompressionBombError:
        raise InputError(field, f"at most {MOST_PIXELS} pixels", "a larger picture") from None
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise anything
        raise InputError(field, f"a picture ({', '.join(_FORMATS)})", str(error)[:200]) from error


def decoded_picture(field: str, text: str) -> Image.Image:
    """The same of base64, or of a data URL."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InputError(field, "a data URL in base64", shown(head))
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(field, "a picture in base64", str(error)) from None
    if not content:
        raise InputError(field, "a picture in base64", "nothing")
    return picture_of(field, content)


def _check_size(field: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MOST_PIXELS or max(size) > LARGEST:
        expected = f"at most {MOST_PIXELS} pixels, and {LARGEST} a side"
        raise InputError(field, expected, f"{width}x{height}")
