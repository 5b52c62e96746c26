"""What is asked for: a prompt, and everything else that decides the picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import integer, items, shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import all_finite, json_object, number, pair, text
from latentrt.runtime.guidance import MAX_SCALE, Guidance
from latentrt.runtime.noise import GENERATORS
from latentrt.runtime.provenance import Provenance
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.size import LARGEST, Size

SCHEMA: Final = 1
"""The newest form of a request's JSON that is read; JSON without a number is of the first."""
MAX_IMAGES: Final = 1024
MAX_LENGTH: Final = 1 << 20
"""Characters of a request's texts and noise levels as JSON: what a picture's text can hold."""

_WEIGHTED: Final = f"pairs of a prompt and a finite weight of at most {MAX_SCALE:g} either way"


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Request:
    """One order of pictures.

    `negative_prompt` None is no negative prompt (for SD 1.x the same as ""); `size` None is the
    checkpoint's own; image i of `num_images` uses `seed + i`, and None draws a seed that the result
    reports; `generator` is whose numbers a seed gives: "torch" (PyTorch's on the CPU), "torch-cuda"
    or "numpy". `composed` are further prompts, each with the weight it pulls with beside the
    prompt's 1 (arXiv:2206.01714); a negative weight pushes away. `clip_skip` leaves out that many
    of the text encoder's last layers for the prompt, not for the negative prompt, as in diffusers;
    a number will do for `guidance`, and a sampler's name for `sampling`. `latents`, float32
    [num_images, channels, height, width] of unit variance, replaces the noise of the seed.
    `original_size`, `crop` (top, left) and `target_size` are what SDXL is told of the picture's
    making; the sizes are the picture's own where they are None. `provenance` is what it was drawn
    with: a result's request has it. A model that draws it again notes where it differs. Requests
    are equal, whatever their provenance, where they ask for the same pictures.

    Raises `InputError` naming the field that cannot be used.
    """

    prompt: str
    negative_prompt: str | None
    size: Size | None
    num_images: int
    seed: int | None
    sampling: Sampling
    guidance: Guidance
    clip_skip: int
    latents: NDArray[np.float32] | None
    composed: tuple[tuple[str, float], ...]
    generator: str
    original_size: Size | None
    crop: tuple[int, int]
    target_size: Size | None
    provenance: Provenance | None

    def __init__(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        size: Size | None = None,
        num_images: int = 1,
        seed: int | None = None,
        sampling: Sampling | str | None = None,
        guidance: Guidance | float | None = None,
        clip_skip: int = 0,
        latents: NDArray[np.float32] | None = None,
        composed: Sequence[tuple[str, float]] = (),
        generator: str = "torch",
        original_size: Size | None = None,
        crop: tuple[int, int] = (0, 0),
        target_size: Size | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        values = {
            "prompt": text("prompt", prompt),
            "negative_prompt": None
            if negative_prompt is None
            else text("negative_prompt", negative_prompt),
            "size": _size("size", size),
            "num_images": _num_images(num_images),
            "seed": None if seed is None else _seed(seed, _num_images(num_images)),
            "sampling": _sampling(sampling),
            "guidance": _guidance(guidance),
            "clip_skip": integer("clip_skip", "an integer of at least 0", clip_skip, 0),
            "latents": None if latents is None else _latents(latents, _num_images(num_images)),
            "composed": _composed(composed),
            "generator": _generator(generator),
            "original_size": _size("original_size", original_size),
            "crop": _crop(crop),
            "target_size": _size("target_size", target_size),
            "provenance": _provenance(provenance),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.composed and not self.guidance.active:
            raise InputError("guidance scale", "above 1 with composed prompts", self.guidance.scale)
        _check_length(self)

    def __eq__(self, other: object) -> bool:
        """Whether two requests ask for the same pictures: by value, latents bit for bit."""
        return self._value == other._value if isinstance(other, Request) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_values, ({f.name: getattr(self, f.name) for f in fields(self)},)

    @property
    def _value(self) -> tuple[object, ...]:
        """Everything that decides the pictures."""
        latents = None if self.latents is None else (self.latents.shape, self.latents.tobytes())
        names = (f.name for f in fields(self) if f.name not in ("latents", "provenance"))
        return (latents, *(getattr(self, name) for name in names))

    def with_values(self, **values: Any) -> Request:
        """The same request with other fields; raises `InputError` for one that it has not."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in values:
            if name not in own:
                raise InputError(name, f"a field of a request: {', '.join(own)}", "another")
        return Request(**{**own, **values})

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; of given latents only their SHA-256."""
        coded = {name: code(getattr(self, name)) for name, (code, _) in _FIELDS.items()}
        return {"schema": SCHEMA, **coded}

    @staticmethod
    def from_json(value: object, latents: NDArray[np.float32] | None = None) -> Request:
        """From `to_json`, of this version or an older one; keys that are absent have their default.

        `latents` are those whose hash the JSON names, or rows of them among others. Raises
        `InputError`, also for a newer schema and for keys that are not known.
        """
        found = json_object("request", value)
        schema = found.pop("schema", 1)
        if integer("schema", "an integer of at least 1", schema, 1) > SCHEMA:
            expected = f"at most {SCHEMA}; a newer version of latentrt reads this request"
            raise InputError("schema", expected, shown(schema))
        found = json_object("request", found, _FIELDS)
        if "prompt" not in found:
            raise InputError("prompt", "a string", "none")
        values = {
            name: decode(name, found[name])
            for name, (_, decode) in _FIELDS.items()
            if name in found
        }
        named = values.pop("latents", None)
        if named is None and latents is not None:
            raise InputError("latents", "none: the picture was made from its seed", "an array")
        if named is not None:
            values["latents"] = _named(named, latents, _num_images(values.get("num_images", 1)))
        return Request(**values)


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


def _named(sha256: object, latents: NDArray[np.float32] | None, count: int) -> NDArray[np.float32]:
    expected = f"those of the picture (SHA-256 {shown(sha256)})"
    if latents is None:
        raise InputError("latents", expected, "none")
    rows = rows_named(latents, sha256, count)
    if rows is None:
        raise InputError("latents", expected, f"others (SHA-256 {latents_sha256(latents)})")
    return rows


def _from_values(values: Mapping[str, Any]) -> Request:
    return Request(**values)


def _size(field: str, value: object) -> Size | None:
    # Of two numbers, some libraries take the height first.
    if not isinstance(value, Size | None):
        raise InputError(field, "a Size, such as Size(width=768, height=512)", shown(value))
    return value


def _num_images(value: object) -> int:
    return integer("num_images", f"an integer from 1 to {MAX_IMAGES}", value, 1, MAX_IMAGES)


def _seed(value: object, num_images: int) -> int:
    # Image i has seed + i, and alone it has to be a request too.
    expected = f"an integer from 0 to 2**63 - {num_images}"
    return integer("seed", expected, value, 0, 2**63 - num_images)


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


def _check_length(request: Request) -> None:
    """Raise `InputError` for a request that is too long for a picture's text.

    Only what a run does not change is counted.
    """
    sampling = request.sampling
    counted = (
        (request.prompt, request.negative_prompt, request.composed),
        (sampling.sampler, sampling.schedule, sampling.timesteps, sampling.sigmas),
    )
    length = len(json.dumps(counted, ensure_ascii=False))
    if length > MAX_LENGTH:
        expected = f"at most {MAX_LENGTH} characters of prompts and noise levels"
        raise InputError("request", expected, length)


def _same(value: Any) -> Any:
    return value


def _as_it_is(_: str, value: Any) -> Any:
    return value


def _size_text(size: Size | None) -> str | None:
    return None if size is None else str(size)


def _parsed(field: str, value: Any) -> Size | None:
    try:
        return None if value is None else Size.parse(value)
    except InputError as error:
        raise InputError(field, error.expected, error.got) from None


_PLAIN: Final = (_same, _as_it_is)
_SIZE: Final = (_size_text, _parsed)

_FIELDS: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[str, Any], Any]]]] = {
    "prompt": _PLAIN,
    "negative_prompt": _PLAIN,
    "size": _SIZE,
    "num_images": _PLAIN,
    "seed": _PLAIN,
    "sampling": (Sampling.to_json, lambda _, value: Sampling.from_json(value)),
    "guidance": (Guidance.to_json, lambda _, value: Guidance.from_json(value)),
    "clip_skip": _PLAIN,
    "latents": (lambda array: None if array is None else latents_sha256(array), _as_it_is),
    "composed": (lambda pairs: [list(each) for each in pairs], _as_it_is),
    "generator": _PLAIN,
    "original_size": _SIZE,
    "crop": (list, _as_it_is),
    "target_size": _SIZE,
    "provenance": (
        lambda value: None if value is None else value.to_json(),
        lambda _, value: None if value is None else Provenance.from_json(value),
    ),
}
"""How each field of a request is written as JSON, and read under its name."""
