"""Pictures at another size, as the web UI's resize modes make them."""

from __future__ import annotations

import base64
import io
from typing import Final

from PIL import Image

from latentrt.runtime.size import Size
from latentrt.serving.pictures import decoded_picture

STRETCH: Final = 0
CROP: Final = 1
FILL: Final = 2
LATENT: Final = 3
_LANCZOS: Final = Image.Resampling.LANCZOS


def resized_picture(picture: Image.Image, mode: int, size: Size) -> Image.Image:
    """A picture at a size: stretched, cropped around its middle, or filled up at its borders.

    Filled borders have the colours of the picture's edge.

    Source: `resize_image` of AUTOMATIC1111's web UI.
    """
    width, height = size.width, size.height
    if mode not in (CROP, FILL):
        return picture.resize((width, height), _LANCZOS)
    wider = picture.width * height > picture.height * width
    if wider == (mode == CROP):
        inner = (picture.width * height // picture.height, height)
    else:
        inner = (width, picture.height * width // picture.width)
    scaled = picture.resize((max(inner[0], 1), max(inner[1], 1)), _LANCZOS)
    left, top = width // 2 - scaled.width // 2, height // 2 - scaled.height // 2
    found = Image.new(picture.mode, (width, height))
    found.paste(scaled, (left, top))
    if mode == FILL:
        _fill_borders(found, scaled, left, top)
    return found


def _fill_borders(found: Image.Image, scaled: Image.Image, left: int, top: int) -> None:
    """Stretch the edges of a picture over what is left empty around it."""
    width, height = found.size
    last_row, last_column = top + scaled.height, left + scaled.width
    if top > 0 or last_row < height:
        for edge, begin, end in ((0, 0, top), (scaled.height - 1, last_row, height)):
            if end > begin:
                row = scaled.crop((0, edge, scaled.width, edge + 1))
                found.paste(row.resize((width, end - begin)), (0, begin))
    else:
        for edge, begin, end in ((0, 0, left), (scaled.width - 1, last_column, width)):
            if end > begin:
                column = scaled.crop((edge, 0, edge + 1, scaled.height))
                found.paste(column.resize((end - begin, height)), (begin, 0))


def flat_picture(field: str, text: str) -> Image.Image:
    """A picture in RGB from base64 or a data URL; what is transparent becomes white, as there."""
    picture = decoded_picture(field, text)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    with_alpha = picture.convert("RGBA")
    white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
    white.alpha_composite(with_alpha)
    return white.convert("RGB")


def mask_picture(field: str, text: str) -> Image.Image:
    """A mask in grey levels; of a picture with transparency its opaque part.

    Source: `create_binary_mask` of AUTOMATIC1111's web UI.
    """
    picture = decoded_picture(field, text)
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha.point([255 if level > 128 else 0 for level in range(256)])
    return picture.convert("L")


def encoded_picture(picture: Image.Image) -> str:
    """A PNG in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
