"""Arrays to images, and the generation parameters in a file's text.

Pillow is imported when the first image is made: a service that has just started need not wait.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import as_path
from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime.pixels import Pixels, to_pixels, unchanged
from latentrt.runtime.provenance import Provenance
from latentrt.runtime.request import Request
from latentrt.runtime.schedules import Schedule, web_names
from latentrt.runtime.size import Size
from latentrt.runtime.tasks import HiresFix, Inpainting
from latentrt.weights.lora.lora import Lora

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["PNG", "JPEG", "WEBP"]
FORMATS: Final[Mapping[str, Format]] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
}
"""The format of a file by the end of its name."""
QUALITY: Final = 80
"""Of JPEG and WebP, from 1 to 100: the web UI's default."""

PARAMETERS: Final = "parameters"
"""The PNG text key that Stable Diffusion web UIs read; JPEG and WebP have EXIF's UserComment."""
REQUEST: Final = "latentrt"
"""The PNG text key of the request as JSON, from which the picture can be made again.

JPEG and WebP have EXIF's MakerNote, which begins with this word and a null byte.
"""
MAX_TEXT: Final = 4 << 20
"""Characters of JSON that are read: more than a `Request` can have."""

_WEB_MODES: Final = {
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
}
_WEB_UPSCALERS: Final = {
    "latent": "Latent",
    "latent_bicubic": "Latent (bicubic)",
    "latent_nearest": "Latent (nearest)",
    "lanczos": "Lanczos",
}
_WEB_GENERATORS: Final = {"numpy": "NumPy", "torch": "CPU", "torch-cuda": "NV"}
_EXIF, _USER_COMMENT, _MAKER_NOTE = 0x8769, 0x9286, 0x927C
_UNICODE: Final = b"UNICODE\0"
_MOST_EXIF: Final = 65533
"""Bytes of EXIF in a JPEG: one marker's."""
_UNKNOWN: Final = 4096
"""Bytes of EXIF that what a run adds, provenance and parameters, takes at most."""
_LARGEST_SIDES: Final[Mapping[Format, int]] = {"JPEG": 65535, "WEBP": 16383}


def to_picture(
    pixels: NDArray[np.float32], finish: Callable[[Pixels], Pixels] = unchanged
) -> Image.Image:
    """RGB from float32 [3, h, w] in [-1, 1]; values outside are clipped.

    `finish` takes the 8-bit pixels to those of the picture.
    """
    from PIL import Image

    return Image.fromarray(finish(to_pixels(pixels)))


def format_of(path: Path | str) -> Format:
    """The format that a file's name asks for; raises `InputError` for one that is not written."""
    target = as_path("output", path)
    found = FORMATS.get(target.suffix.lower())
    if found is None:
        raise InputError("output", f"a name that ends in {', '.join(FORMATS)}", target)
    return found


def check_format(kind: Format, request: Request) -> None:
    """Raise `InputError` where a format cannot hold a request's pictures or their text.

    It can be called before anything is drawn: parts not known yet count with their greatest length.
    """
    _check_sides(kind, request.size)
    if kind == "JPEG":
        _check_exif(len(_exif(_json(request), "\n".join(_prompts(request)))) + _UNKNOWN)


def parameters(request: Request, model: str, schedule: Schedule) -> str:
    """The parameters of one picture in the form web UIs write and read.

    Source: `create_infotext` of AUTOMATIC1111's web UI.
    """
    guidance, made = request.guidance, request.provenance or Provenance()
    sampler, schedule_type = web_names(schedule)
    fields = {
        "Steps": request.sampling.steps,
        "Sampler": sampler,
        "Schedule type": schedule_type,
        "CFG scale": guidance.scale_text,
        "Seed": request.seed,
        "RNG": _WEB_GENERATORS[request.generator],
        "Model hash": made.model_hash[:10] or None,
        "Size": request.size,
        "Model": model or None,
        "VAE hash": made.vae_sha256[:10] or None,
        "VAE": made.vae or None,
        **_variation(request),
        **_task(request),
        "Clip skip": request.clip_skip + 1 if request.clip_skip else None,
        "Reuse": None if request.reuse is None else str(request.reuse),
        **_others(request),
        "Version": f"latentrt {version('latentrt')}",
    }
    last = ", ".join(f"{k}: {quoted(str(v))}" for k, v in fields.items() if v is not None)
    return "\n".join((*_prompts(request), last))


def encode(
    picture: Image.Image,
    kind: Format,
    request: Request,
    model: str,
    schedule: Schedule,
    *,
    quality: int = QUALITY,
) -> bytes:
    """A picture as a file with its parameters and its request as text.

    Raises `InputError` where the format cannot hold them.
    """
    _check_sides(kind, request.size)
    text, value = parameters(request, model, schedule), _json(request)
    options: dict[str, Any] = {"quality": quality}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        # A tEXt chunk where Latin-1 has all of its characters, else an iTXt chunk.
        info.add_text(PARAMETERS, text)
        info.add_itxt(REQUEST, value)
        options = {"pnginfo": info}
    else:
        exif = _exif(value, text)
        if kind == "JPEG":
            _check_exif(len(exif))
        options["exif"] = exif
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read_request(path: Path | str, attachments: Sequence[NDArray[Any]] = ()) -> Request:
    """The request that a picture of ours was made by.

    `attachments` are the latents and pictures that it was made from, where it was. Raises
    `FileError` for a file that is not such a picture, `InputError` for a request that cannot be
    used.
    """
    return Request.from_json(recorded_request(path), attachments)


def recorded_request(path: Path | str) -> dict[str, Any]:
    """The same as JSON, whatever is in it; raises `FileError` for a file that holds none."""
    from PIL import Image

    path = as_path("picture", path)
    if not path.exists():
        raise FileError(path, "no such file")
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
            text = _text(picture)
    except Image.DecompressionBombError as error:
        raise FileError(path, f"is too large: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise FileError(path, f"is not a readable PNG, JPEG or WebP: {error}") from error
    if text is None:
        raise FileError(path, "holds no latentrt request")
    if len(text) > MAX_TEXT:
        raise FileError(path, f"holds a request of more than {MAX_TEXT} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"holds a malformed request: {error}") from error
    if not isinstance(value, dict):
        raise FileError(path, f"holds a malformed request: {type(value).__name__}, no object")
    return cast("dict[str, Any]", value)


def _text(picture: Image.Image) -> str | None:
    """The JSON in a file's text, if there is some."""
    if picture.format == "PNG":
        return cast("dict[str, str]", getattr(picture, "text", {})).get(REQUEST)
    note: object = picture.getexif().get_ifd(_EXIF).get(_MAKER_NOTE)
    head = REQUEST.encode() + b"\0"
    if not isinstance(note, bytes) or not note.startswith(head):
        return None
    return note.removeprefix(head).decode("utf-8")


def _exif(value: str, text: str) -> bytes:
    """EXIF with a request's JSON and the parameters, as web UIs write these."""
    from PIL import Image

    exif = Image.Exif()
    entries = cast("dict[int, bytes]", exif.get_ifd(_EXIF))
    entries[_USER_COMMENT] = _UNICODE + text.encode("utf-16-be")
    entries[_MAKER_NOTE] = REQUEST.encode() + b"\0" + value.encode()
    return exif.tobytes()


def _check_sides(kind: Format, size: Size | None) -> None:
    largest = _LARGEST_SIDES.get(kind)
    if largest is not None and size is not None and max(size.width, size.height) > largest:
        raise InputError("output", f"a PNG, or at most {largest} pixels a side", f"{kind}, {size}")


def _check_exif(length: int) -> None:
    if length > _MOST_EXIF:
        expected = f"a PNG or WebP: a JPEG holds at most {_MOST_EXIF} bytes of text"
        raise InputError("output", expected, f"{length} bytes")


def _json(request: Request) -> str:
    return json.dumps(request.to_json(), ensure_ascii=False)


def _variation(request: Request) -> dict[str, object]:
    if request.subseed_strength == 0:
        return {}
    strength = f"{request.subseed_strength:g}"
    return {"Variation seed": request.subseed, "Variation seed strength": strength}


def _task(request: Request) -> dict[str, object]:
    """What a task has beside its pictures."""
    task = request.task
    strength = getattr(task, "strength", None)
    found: dict[str, object] = {"Denoising strength": None if strength is None else f"{strength:g}"}
    if isinstance(task, Inpainting):
        found["Mask blur"] = f"{task.mask_blur:g}" if task.mask_blur else None
    if isinstance(task, HiresFix):
        found["Hires upscale"] = f"{task.scale:g}"
        found["Hires steps"] = task.steps
        found["Hires upscaler"] = _WEB_UPSCALERS.get(task.upscaler, Path(task.upscaler).stem)
    return found


def _others(request: Request) -> dict[str, object]:
    """The models beside the first."""
    found: dict[str, object] = {}
    for number, each in enumerate(request.controls):
        values = f"Weight: {each.scale:g}, Guidance Start: {each.start:g}"
        values += f", Guidance End: {each.end:g}, Control Mode: {_WEB_MODES[each.mode]}"
        found[f"ControlNet {number}"] = f"Module: none, Model: {each.model.stem}, {values}"
    if request.refiner is not None:
        found["Refiner"] = request.refiner.model.stem
        found["Refiner switch at"] = f"{request.refiner.at:g}"
    return found


def _tag(lora: Lora) -> str:
    """A LoRA as a prompt names it."""
    scales = [f"{lora.scale_of(folder):g}" for folder in ("text_encoder", "unet")]
    return f"<lora:{lora.path.stem}:{':'.join(dict.fromkeys(scales))}>"


def _prompts(request: Request) -> list[str]:
    """The first lines of the parameters. Many readers end a text at a null character."""
    tags = [_tag(each) for each in request.weights if isinstance(each, Lora)]
    lines = [" ".join([request.prompt, *tags])]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    return [line.replace("\0", "\N{REPLACEMENT CHARACTER}") for line in lines]


def quoted(text: str) -> str:
    """A value as the web UI quotes it: a JSON string where it could be taken for two values.

    Source: `quote` of AUTOMATIC1111's web UI, which looks for commas, colons and newlines.
    """
    if text.isprintable() and text == text.strip() and not set(text) & set(',:"'):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
