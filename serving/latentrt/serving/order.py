"""An order: a request with the model that draws it, and how its pictures are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from latentrt.bundle.errors import InputError
from latentrt.runtime import Control, Guidance, Lora, Refiner, Request, Sampling, Size, canny
from latentrt.runtime.image import Format
from latentrt.runtime.pixels import as_pixels
from latentrt.runtime.reuse import FAST
from latentrt.runtime.tasks import TASKS, Task
from latentrt.runtime.weight_folders import named_embeddings, tagged_loras
from latentrt.runtime.weights_fields import Weights
from latentrt.serving.bodies import ControlBody, JobBody, TaskBody
from latentrt.serving.limits import Limits
from latentrt.serving.pictures import decoded_picture
from latentrt.serving.shelf import Shelf

FORMATS: Final[Mapping[str, Format]] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MEDIA: Final[Mapping[Format, str]] = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
}
"""Media types of the formats."""


@dataclass(frozen=True, slots=True)
class Order:
    """`model` is a name; `format` and `quality` are the files'; `deadline` is in seconds.

    `previews` come at most twice a second. `partial` previews come at even distances.
    """

    model: str
    request: Request
    format: Format = "PNG"
    quality: int = 80
    deadline: float | None = None
    previews: bool = False
    partial: int = 0


def order_of(body: JobBody, shelf: Shelf, limits: Limits, partial: int = 0) -> Order:
    """The order of a body. It reads files: not for an event loop.

    Raises `InputError` naming the field that cannot be used, `Refused` for an unknown model, and
    what reading weights raises.
    """
    model = shelf.model_name(body.model)
    for name, value, most in (
        ("steps", _steps(body), limits.steps),
        ("num_images", body.num_images, limits.images),
    ):
        if value > most:
            raise InputError(name, f"at most {most}", value)
    texts = [body.prompt, body.negative_prompt or "", *(text for text, _ in body.composed)]
    if (length := sum(map(len, texts))) > limits.prompt:
        raise InputError("prompt", f"at most {limits.prompt} characters", length)
    weights, prompts = _weights(body, shelf)
    request = Request(
        prompts[0],
        negative_prompt=body.negative_prompt,
        syntax=body.syntax,
        task=_task(body.task),
        size=_size("size", body.size),
        num_images=body.num_images,
        seed=body.seed,
        sampling=Sampling(**_tuples(body.sampling.model_dump())),
        guidance=Guidance(**body.guidance.model_dump()),
        clip_skip=body.clip_skip,
        composed=[
            (text, weight) for text, (_, weight) in zip(prompts[1:], body.composed, strict=True)
        ],
        generator=body.generator,
        original_size=_size("original_size", body.original_size),
        crop=body.crop,
        target_size=_size("target_size", body.target_size),
        weights=weights,
        refiner=None
        if body.refiner is None
        else Refiner(shelf.model(body.refiner.name), body.refiner.at),
        subseed=body.subseed,
        subseed_strength=body.subseed_strength,
        tiling=body.tiling,
        controls=[_control(i, each, shelf) for i, each in enumerate(body.controls)],
        reuse=FAST if body.fast else None,
    )
    if len(request.prompts) > limits.prompts:
        raise InputError("prompt", f"at most {limits.prompts} prompts", len(request.prompts))
    _check_pixels(request, limits)
    return Order(
        model,
        request,
        FORMATS[body.format],
        body.quality,
        min(body.deadline or limits.deadline, limits.deadline),
        body.previews,
        partial,
    )


def _steps(body: JobBody) -> int:
    """The most steps that any part of a body asks for."""
    sampling = body.sampling
    listed = [len(each) for each in (sampling.timesteps, sampling.sigmas) if each is not None]
    later = getattr(body.task, "steps", None) or 0
    return max(sampling.steps, later, *listed, 0)


def _check_pixels(request: Request, limits: Limits) -> None:
    """Raise `InputError` where a picture's last size is beyond the limit."""
    if limits.pixels is None or request.size is None:
        return
    size = request.task.output(request.size, 1)
    if size.width * size.height > limits.pixels:
        raise InputError("size", f"at most {limits.pixels} pixels", size)


def _weights(body: JobBody, shelf: Shelf) -> tuple[list[Weights], list[str]]:
    """The LoRAs and embeddings that a body names, and its prompts without tags."""
    prompts = [body.prompt, *(text for text, _ in body.composed)]
    loras = [Lora(shelf.lora(each.name), each.scale) for each in body.loras]
    if shelf.loras is not None:
        tagged, prompts = tagged_loras(shelf.loras, prompts)
        loras += tagged
    if shelf.embeddings is None:
        return [*loras], prompts
    texts = [*prompts, body.negative_prompt or ""]
    return [*loras, *named_embeddings(shelf.embeddings, texts)], prompts


def _task(body: TaskBody) -> Task:
    fields = body.model_dump()
    kind = TASKS[fields.pop("name")]
    for name in kind.pictures:
        fields[name] = decoded_picture(name, fields[name])
    return kind(**fields)


def _control(index: int, body: ControlBody, shelf: Shelf) -> Control:
    field = f"controls.{index}.image"
    picture: Any = decoded_picture(field, body.image)
    if body.canny is not None:
        picture = canny(as_pixels(field, picture), *body.canny)
    model: Path = shelf.control(body.name)
    return Control(model, picture, body.scale, body.start, body.end, body.mode)


def _size(field: str, text: str | None) -> Size | None:
    if text is None:
        return None
    try:
        return Size.parse(text)
    except InputError as error:
        raise InputError(field, error.expected, error.got) from None


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(cast("list[float]", each)) if isinstance(each, list) else each
        for name, each in values.items()
    }
