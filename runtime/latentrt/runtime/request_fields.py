"""The fields of a request: what each may hold, and how it is written as JSON and read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import integer, items, shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import all_finite, number, one_of, pair, text
from latentrt.runtime.control import Control, check_controls, controls_json, named_controls
from latentrt.runtime.guidance import MAX_SCALE, Guidance
from latentrt.runtime.interpolation import Interpolation
from latentrt.runtime.noise import GENERATORS
from latentrt.runtime.prompts.syntax import check_syntax
from latentrt.runtime.provenance import Provenance
from latentrt.runtime.refiner import Refiner, named_refiner
from latentrt.runtime.reuse import Reuse
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.size import LARGEST, Size
from latentrt.runtime.tasks import TASKS, Task, TextToImage, read_task, task_json
from latentrt.runtime.weights_fields import Weights, check_weights, named_weights, weights_json

MAX_IMAGES: Final = 1024

Tiling = Literal["auto", "on", "off"]
TILINGS: Final[tuple[Tiling, ...]] = ("auto", "on", "off")

_WEIGHTED: Final = f"pairs of a prompt and a finite weight of at most {MAX_SCALE:g} either way"

Arrays = Sequence[NDArray[Any]]
Attachments = Sequence[NDArray[Any] | Weights | Control | Refiner]
"""What a request's JSON names by hashes."""


@dataclass(frozen=True, slots=True)
class RequestField:
    """One field: `check` gives what is kept of a value, by name and for a number of images.

    `to_json` and `from_json` are how it is written and read; from JSON it is checked after that.
    Raises `InputError` naming the field.
    """

    check: Callable[[str, Any, int], Any]
    to_json: Callable[[Any], Any] = lambda value: value
    from_json: Callable[[str, Any, Any], Any] = lambda _name, value, _attached: value


def latents_sha256(latents: NDArray[np.float32]) -> str:
    """SHA-256 of latents: shape, then bytes."""
    array = np.ascontiguousarray(latents, dtype="<f4")
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


def rows_named(
    latents: NDArray[np.float32], sha256: object, count: int
) -> NDArray[np.float32] | None:
    """The `count` neighbouring rows of latents [n, c, h, w] that have this hash, if some have."""
    _check_latents(latents)
    for first in range(len(latents) - count + 1):
        rows = latents[first : first + count]
        if latents_sha256(rows) == sha256:
            return rows
    return None


def named_latents(sha256: object, attachments: Arrays, count: int) -> NDArray[np.float32]:
    """The latents with this hash among the attachments, or rows of them.

    Raises `InputError` where there are none.
    """
    expected = f"those of the picture (SHA-256 {shown(sha256)})"
    found = [each for each in attachments if each.ndim == 4]
    for each in found:
        rows = rows_named(each, sha256, count)
        if rows is not None:
            return rows
    others = f"others (SHA-256 {latents_sha256(found[0])})" if found else "none"
    raise InputError("latents", expected, others)


def _size(field: str, value: object) -> Size | None:
    # Of two numbers, some libraries take the height first.
    if not isinstance(value, Size | None):
        raise InputError(field, "a Size, such as Size(width=768, height=512)", shown(value))
    return value


def number_of_images(value: object) -> int:
    """How many pictures a request asks for."""
    return integer("num_images", f"an integer from 1 to {MAX_IMAGES}", value, 1, MAX_IMAGES)


def _seed(field: str, value: object, num_images: int) -> int | None:
    if value is None:
        return None
    # Image i has seed + i, and alone it has to be a request too.
    expected = f"an integer from 0 to 2**63 - {num_images}"
    return integer(field, expected, value, 0, 2**63 - num_images)


def _sampling(value: object) -> Sampling:
    if isinstance(value, str | None):
        return Sampling(value)
    if not isinstance(value, Sampling):
        raise InputError("sampling", "a Sampling or a sampler's name", shown(value))
    return value


def _guidance(value: object) -> Guidance:
    if value is None:
        return Guidance()
    if not isinstance(value, Guidance):
        return Guidance(number("guidance", "a Guidance or a number", value))
    return value


def _generator(value: object) -> str:
    if not isinstance(value, str) or value not in GENERATORS:
        raise InputError("generator", f"one of {', '.join(GENERATORS)}", shown(value))
    return value


def _provenance(value: object) -> Provenance | None:
    if not isinstance(value, Provenance | None):
        raise InputError("provenance", "a Provenance", shown(value))
    return value


def _refiner(value: object) -> Refiner | None:
    if not isinstance(value, Refiner | None):
        raise InputError(
            "refiner", "a Refiner, such as Refiner('refiner.safetensors')", shown(value)
        )
    return value


def _reuse(value: object) -> Reuse | None:
    if not isinstance(value, Reuse | None):
        raise InputError("reuse", "a Reuse, such as Reuse(threshold=0.1)", shown(value))
    return value


def _interpolation(value: object) -> Interpolation | None:
    if not isinstance(value, Interpolation | None):
        expected = "an Interpolation, such as Interpolation('a blue square')"
        raise InputError("interpolation", expected, shown(value))
    return value


def _composed(pairs: object) -> tuple[tuple[str, float], ...]:
    given = items(pairs)
    if given is None:
        raise InputError("composed", _WEIGHTED, shown(pairs))
    return tuple(_weighted(each) for each in given)


def _weighted(value: object) -> tuple[str, float]:
    match pair(value):
        case (str(prompt), weight):
            found = number("composed", _WEIGHTED, weight, -MAX_SCALE, MAX_SCALE)
            return text("composed", prompt), found
        case _:
            raise InputError("composed", _WEIGHTED, shown(value))


def _crop(value: object) -> tuple[int, int]:
    expected = f"(top, left), integers from 0 to {LARGEST}"
    match pair(value):
        case (top, left):
            return (
                integer("crop", expected, top, 0, LARGEST),
                integer("crop", expected, left, 0, LARGEST),
            )
        case _:
            raise InputError("crop", expected, shown(value))


def _latents(value: object, num_images: int) -> NDArray[np.float32]:
    """A read-only copy."""
    latents = _check_latents(value)
    if len(latents) != num_images:
        expected = f"{num_images} of them, one for each image"
        raise InputError("latents", expected, f"{len(latents)} (shape {latents.shape})")
    own = np.array(latents, order="C")
    own.flags.writeable = False
    return own


def _check_latents(value: object) -> NDArray[np.float32]:
    expected = "float32 of shape (num_images, channels, height, width)"
    if not isinstance(value, np.ndarray):
        raise InputError("latents", f"a NumPy array, {expected}", type(value).__name__)
    array = cast("NDArray[np.float32]", value)
    if array.ndim != 4 or array.dtype != np.float32:
        raise InputError("latents", expected, f"{array.dtype} of shape {array.shape}")
    if not all_finite(array):
        raise InputError("latents", "finite values", "NaN or infinity")
    return array


def _task(value: object) -> Task:
    if not isinstance(value, tuple(TASKS.values())):
        raise InputError("task", f"one of {', '.join(TASKS)}", shown(value))
    return value


def _parsed_size(field: str, value: Any, _: Attachments) -> Size | None:
    try:
        return None if value is None else Size.parse(value)
    except InputError as error:
        raise InputError(field, error.expected, error.got) from None


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any, int], Any]:
    return lambda name, value, _: None if value is None else check(name, value)


def _plain(check: Callable[[Any], Any]) -> Callable[[str, Any, int], Any]:
    return lambda _name, value, _count: check(value)


_SIZE: Final = RequestField(
    lambda name, value, _: _size(name, value),
    lambda size: None if size is None else str(size),
    _parsed_size,
)

FIELDS: Final[Mapping[str, RequestField]] = {
    "prompt": RequestField(lambda name, value, _: text(name, value)),
    "negative_prompt": RequestField(_optional(text)),
    "syntax": RequestField(_plain(check_syntax)),
    "task": RequestField(_plain(_task), task_json, lambda _, value, given: read_task(value, given)),
    "size": _SIZE,
    "num_images": RequestField(_plain(number_of_images)),
    "seed": RequestField(_seed),
    "sampling": RequestField(
        _plain(_sampling), Sampling.to_json, lambda _name, value, _: Sampling.from_json(value)
    ),
    "guidance": RequestField(
        _plain(_guidance), Guidance.to_json, lambda _name, value, _: Guidance.from_json(value)
    ),
    "clip_skip": RequestField(
        lambda name, value, _: integer(name, "an integer of at least 0", value, 0)
    ),
    "latents": RequestField(
        lambda _, value, count: None if value is None else _latents(value, count),
        lambda array: None if array is None else latents_sha256(array),
    ),
    "composed": RequestField(_plain(_composed), lambda pairs: [list(each) for each in pairs]),
    "generator": RequestField(_plain(_generator)),
    "original_size": _SIZE,
    "crop": RequestField(_plain(_crop), list),
    "target_size": _SIZE,
    "weights": RequestField(
        _plain(check_weights), weights_json, lambda _name, value, given: named_weights(value, given)
    ),
    "refiner": RequestField(
        _plain(_refiner),
        lambda value: None if value is None else value.to_json(),
        lambda _name, value, given: named_refiner(value, given),
    ),
    "subseed": RequestField(_seed),
    "subseed_strength": RequestField(
        lambda name, value, _: number(name, "a number from 0 to 1", value, 0.0, 1.0)
    ),
    "interpolation": RequestField(
        _plain(_interpolation),
        lambda value: None if value is None else value.to_json(),
        lambda _name, value, _: None if value is None else Interpolation.from_json(value),
    ),
    "tiling": RequestField(lambda name, value, _: one_of(name, value, TILINGS)),
    "controls": RequestField(
        _plain(check_controls),
        controls_json,
        lambda _name, value, given: named_controls(value, given),
    ),
    "reuse": RequestField(
        _plain(_reuse),
        lambda value: None if value is None else value.to_json(),
        lambda _name, value, _: None if value is None else Reuse.from_json(value),
    ),
    "provenance": RequestField(
        _plain(_provenance),
        lambda value: None if value is None else value.to_json(),
        lambda _name, value, _: None if value is None else Provenance.from_json(value),
    ),
}
"""Every field of a request, in the order of its arguments."""

DEFAULT_TASK: Final = TextToImage()
