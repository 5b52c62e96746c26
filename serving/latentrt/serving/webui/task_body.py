"""A web UI's request as a task: hires fix, image to image, inpainting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from PIL import Image, ImageFilter

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.size import Size
from latentrt.serving.bodies import HiresFixBody, ImageToImageBody, InpaintingBody, TaskBody
from latentrt.serving.webui.bodies import GenerationBody, Img2ImgBody, Txt2ImgBody
from latentrt.serving.webui.resizing import (
    LATENT,
    STRETCH,
    encoded_picture,
    flat_picture,
    mask_picture,
    resized_picture,
)

FACTOR: Final = 8
"""Sizes are rounded down to multiples of it, as by the web UI."""
_STRENGTHS: Final = (1e-6, 0.999)
"""The web UI's strengths end below 1; at 0 it takes one step."""
_FILLS: Final[tuple[Literal["blur", "original", "noise", "nothing"], ...]] = (
    "blur",
    "original",
    "noise",
    "nothing",
)
UPSCALERS: Final[Mapping[str, Literal["latent", "latent_bicubic", "latent_nearest", "lanczos"]]] = {
    "Latent": "latent",
    "Latent (antialiased)": "latent",
    "Latent (bicubic)": "latent_bicubic",
    "Latent (nearest)": "latent_nearest",
    "Lanczos": "lanczos",
    "None": "lanczos",
}
"""The upscalers of the hires fix by the web UI's names. Making larger, nothing is antialiased."""


def _strength(body: GenerationBody) -> float:
    low, high = _STRENGTHS
    return min(max(body.denoising_strength, low), high)


def hires(body: Txt2ImgBody, size: Size | None) -> HiresFixBody:
    upscaler = UPSCALERS.get(body.hr_upscaler)
    if upscaler is None:
        raise InputError("hr_upscaler", f"one of {', '.join(UPSCALERS)}", shown(body.hr_upscaler))
    return HiresFixBody(
        name="hires_fix",
        scale=_scale(body, size),
        strength=_strength(body),
        counting="webui",
        steps=body.hr_second_pass_steps or None,
        upscaler=upscaler,
    )


def _scale(body: Txt2ImgBody, size: Size | None) -> float:
    """The factor of the hires fix whose product, rounded, is the web UI's, rounded down."""
    if size is None:
        if body.hr_resize_x or body.hr_resize_y:
            raise InputError(
                "width", "a width and height beside hr_resize_x and hr_resize_y", "none"
            )
        return body.hr_scale
    asked = body.hr_scale
    if body.hr_resize_x or body.hr_resize_y:
        asked = max(body.hr_resize_x / size.width, body.hr_resize_y / size.height)
    sides = size.width, size.height
    wanted = [int(side * asked + 1e-9) // FACTOR for side in sides]
    for scale in (asked, *(n * FACTOR / side for n, side in zip(wanted, sides, strict=True))):
        if [round(side * scale / FACTOR) for side in sides] == wanted:
            asked = scale
            break
    found = [round(side * asked / FACTOR) * FACTOR for side in sides]
    for name, given, side in zip(
        ("hr_resize_x", "hr_resize_y"), (body.hr_resize_x, body.hr_resize_y), found, strict=True
    ):
        if given and given // FACTOR * FACTOR != side:
            raise InputError(name, f"the proportions of {size}, such as {side}", given)
    if not 1 <= asked <= 8:
        raise InputError("hr_resize_x", f"1 to 8 times the width, {size.width}", body.hr_resize_x)
    return asked


def redrawn(body: Img2ImgBody, size: Size | None) -> TaskBody:
    """Image to image, or inpainting where there is a mask."""
    picture = flat_picture("init_images", body.init_images[0])
    if body.mask:
        return _inpainting(body, picture, size)
    if _cut(body, picture, size) and size is not None:
        picture = resized_picture(picture, body.resize_mode, size)
    return ImageToImageBody(
        name="image_to_image",
        image=encoded_picture(picture),
        strength=_strength(body),
        counting="webui",
    )


def _inpainting(body: Img2ImgBody, picture: Image.Image, size: Size | None) -> InpaintingBody:
    mask = mask_picture("mask", body.mask)
    if mask.size != picture.size:
        mask = mask.resize(picture.size)
    blur, whole = body.blur, not body.inpaint_full_res
    if whole and _cut(body, picture, size) and size is not None:
        # The mask is blurred before it is resized.
        mask, blur = mask.filter(ImageFilter.GaussianBlur(blur)), 0.0
        picture, mask = (resized_picture(p, body.resize_mode, size) for p in (picture, mask))
    return InpaintingBody(
        name="inpainting",
        image=encoded_picture(picture),
        mask=encoded_picture(mask),
        strength=_strength(body),
        counting="webui",
        mask_invert=body.inpainting_mask_invert,
        mask_blur=blur,
        mask_fill=_FILLS[body.inpainting_fill],
        only_masked=None if whole else body.inpaint_full_res_padding,
    )


def _cut(body: Img2ImgBody, picture: Image.Image, size: Size | None) -> bool:
    """Whether a picture is cropped or filled up before it is drawn over; else it is stretched.

    Raises `InputError` for the latent's resizing.
    """
    if size is None or picture.size == (size.width, size.height):
        return False
    if body.resize_mode == LATENT:
        got = f"3 for a picture of {picture.width}x{picture.height}"
        raise InputError("resize_mode", f"0 to 2, or a picture of {size}", got)
    return body.resize_mode != STRETCH
