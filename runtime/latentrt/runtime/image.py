"""Arrays to pictures, and the generation parameters in a PNG's text.

Pillow is imported when the first picture is made: a service that has just started need not wait.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime.request import Request

if TYPE_CHECKING:
    from PIL import Image

PARAMETERS: Final = "parameters"
"""The PNG text key that Stable Diffusion web UIs read."""
REQUEST: Final = "latentrt"
"""The PNG text key of the request as JSON, from which the picture can be made again."""
MAX_TEXT: Final = 1 << 20
_WEB_NAMES: Final = {
    "ddim": "DDIM",
    "deis": "DEIS",
    "dpm2": "DPM2",
    "dpm2_ancestral": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "plms": "PLMS",
    "unipc": "UniPC",
}
"""What web UIs call the samplers that they have too."""

_WEB_GENERATORS: Final = {"numpy": "NumPy", "torch": "CPU", "torch-cuda": "NV"}


def to_picture(pixels: NDArray[np.float32]) -> Image.Image:
    """RGB from float32 [3, h, w] in [-1, 1]; values outside are clipped."""
    from PIL import Image

    scaled = np.clip(pixels.transpose(1, 2, 0) * 0.5 + 0.5, 0.0, 1.0) * 255
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def parameters(request: Request, model: str, sampler: str) -> str:
    """The parameters of one picture in the form web UIs write and read.

    Source: AUTOMATIC1111's `infotext` convention.
    """
    from importlib.metadata import version

    size, guidance = request.size, request.guidance
    fields = {
        "Steps": request.sampling.steps,
        "Sampler": _WEB_NAMES.get(sampler, sampler),
        "Schedule type": (request.sampling.schedule or "").replace("_", " ").title() or None,
        "CFG scale": guidance.scale_text,
        "Seed": request.seed,
        "RNG": _WEB_GENERATORS[request.generator],
        "Size": size,
        "Model": model,
        "Clip skip": request.clip_skip + 1 if request.clip_skip else None,
        "Version": f"latentrt {version('latentrt')}",
    }
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{k}: {v}" for k, v in fields.items() if v is not None))
    return "\n".join(lines)


def to_png(picture: Image.Image, request: Request, model: str, sampler: str) -> bytes:
    """The picture as PNG with its parameters and its request as text."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_itxt(PARAMETERS, parameters(request, model, sampler))
    text.add_itxt(REQUEST, json.dumps(request.to_json(), ensure_ascii=False))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def read_request(path: Path, latents: NDArray[np.float32] | None = None) -> Request:
    """The request that a PNG of ours was made by.

    `latents` are needed if the picture was made from given ones. Raises `FileError` for a file that
    is not such a PNG.
    """
    return Request.from_json(recorded_request(path), latents)


def recorded_request(path: Path) -> dict[str, Any]:
    """The same as JSON, whatever is in it; raises `FileError` for a file that holds none."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            texts = cast("dict[str, Any]", getattr(picture, "text", {}))
    except (OSError, ValueError, SyntaxError) as error:
        raise FileError(path, f"is not a readable PNG: {error}") from error
    text = texts.get(REQUEST)
    if text is None or len(text) > MAX_TEXT:
        raise FileError(path, "holds no latentrt request")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"holds a malformed request: {error}") from error
    if not isinstance(value, dict):
        raise InputError("request", "a JSON object", type(value).__name__)
    return cast("dict[str, Any]", value)
