"""What is asked for: a prompt, and everything else that decides the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import all_finite, is_integer, number, pair
from latentrt.runtime.guidance import MAX_SCALE, Guidance
from latentrt.runtime.noise import GENERATORS
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.size import Size

MAX_IMAGES = 1024

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
    making; the sizes are the picture's own where they are None.

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
    ) -> None:
        put = object.__setattr__
        put(self, "prompt", _text("prompt", prompt))
        put(self, "negative_prompt", negative_prompt)
        put(self, "size", _size("size", size))
        put(self, "num_images", num_images)
        put(self, "seed", seed)
        put(self, "sampling", _sampling(sampling))
        put(self, "guidance", _guidance(guidance))
        put(self, "clip_skip", clip_skip)
        put(self, "latents", latents)
        put(self, "composed", _composed(composed))
        put(self, "generator", generator)
        put(self, "original_size", _size("original_size", original_size))
        put(self, "crop", _crop(crop))
        put(self, "target_size", _size("target_size", target_size))
        if negative_prompt is not None:
            _text("negative_prompt", negative_prompt)
        if not is_integer(num_images) or not 1 <= num_images <= MAX_IMAGES:
            raise InputError("num_images", f"an integer from 1 to {MAX_IMAGES}", repr(num_images))
        if seed is not None and (not is_integer(seed) or not 0 <= seed < 2**63 - MAX_IMAGES):
            raise InputError("seed", "an integer from 0 to 2**63 - 1025", repr(seed))
        if not is_integer(clip_skip) or clip_skip < 0:
            raise InputError("clip_skip", "an integer of at least 0", repr(clip_skip))
        if latents is not None:
            _check_latents(latents, num_images)
            own = latents.copy()
            own.flags.writeable = False
            put(self, "latents", own)
        if generator not in GENERATORS:
            raise InputError("generator", f"one of {', '.join(GENERATORS)}", repr(generator))
        if self.composed and not self.guidance.active:
            raise InputError("guidance scale", "above 1 with composed prompts", self.guidance.scale)

    def with_values(self, **values: Any) -> Request:
        """The same request with other fields."""
        return Request(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **values})

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; of given latents only their SHA-256."""
        latents = None if self.latents is None else latents_sha256(self.latents)
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "size": _text_of(self.size),
            "num_images": self.num_images,
            "seed": self.seed,
            "sampling": asdict(self.sampling),
            "guidance": self.guidance.to_json(),
            "clip_skip": self.clip_skip,
            "latents": latents,
            "composed": [list(pair) for pair in self.composed],
            "generator": self.generator,
            "original_size": _text_of(self.original_size),
            "crop": list(self.crop),
            "target_size": _text_of(self.target_size),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], latents: NDArray[np.float32] | None = None) -> Request:
        """From `to_json`; `latents` are those whose hash it names. Raises `InputError`."""
        try:
            named = value["latents"]
            given = None if latents is None else latents_sha256(latents)
            if named != given:
                raise InputError("latents", f"those of the picture ({named})", given)
            return Request(
                value["prompt"],
                negative_prompt=value["negative_prompt"],
                size=_parsed(value["size"]),
                num_images=value["num_images"],
                seed=value["seed"],
                sampling=Sampling(**value["sampling"]),
                guidance=Guidance.from_json(value["guidance"]),
                clip_skip=value["clip_skip"],
                latents=latents,
                composed=[(str(prompt), weight) for prompt, weight in value["composed"]],
                generator=value["generator"],
                original_size=_parsed(value["original_size"]),
                crop=value["crop"],
                target_size=_parsed(value["target_size"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("request", "the JSON of a request", f"{error!r}") from error


def latents_sha256(latents: NDArray[np.float32]) -> str:
    """SHA-256 of latents: shape, then bytes."""
    array = np.ascontiguousarray(latents, dtype="<f4")
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(field, "a string", repr(value))
    return value


def _size(field: str, value: object) -> Size | None:
    # Of two numbers, some libraries take the height first.
    if not isinstance(value, Size | None):
        raise InputError(field, "a Size, such as Size(width=768, height=512)", repr(value))
    return value


def _sampling(value: object) -> Sampling:
    if isinstance(value, str | None):
        return Sampling(value)
    if not isinstance(value, Sampling):
        raise InputError("sampling", "a Sampling or a sampler's name", repr(value))
    return value


def _guidance(value: object) -> Guidance:
    if value is None:
        return Guidance()
    if not isinstance(value, Guidance):
        return Guidance(number("guidance", "a Guidance or a number", value))
    return value


def _text_of(size: Size | None) -> str | None:
    return None if size is None else str(size)


def _parsed(text: str | None) -> Size | None:
    return None if text is None else Size.parse(text)


def _composed(pairs: Any) -> tuple[tuple[str, float], ...]:
    try:
        return tuple(_weighted(each) for each in pairs)
    except TypeError:
        raise InputError("composed", _WEIGHTED, repr(pairs)) from None


def _weighted(value: object) -> tuple[str, float]:
    match pair(value):
        case (str(prompt), given) if (
            abs(weight := number("composed", _WEIGHTED, given)) <= MAX_SCALE
        ):
            return prompt, weight
        case _:
            raise InputError("composed", _WEIGHTED, repr(value))


def _crop(value: object) -> tuple[int, int]:
    match pair(value):
        case (top, left) if _is_offset(top) and _is_offset(left):
            return top, left
        case _:
            raise InputError("crop", "(top, left), integers from 0 to 16384", repr(value))


def _is_offset(value: object) -> TypeGuard[int]:
    return is_integer(value) and 0 <= value <= 16384


def _check_latents(latents: NDArray[np.float32], num_images: int) -> None:
    expected = f"float32 of shape ({num_images}, channels, height, width)"
    if not isinstance(latents, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError("latents", f"a NumPy array, {expected}", type(latents).__name__)
    if latents.ndim != 4 or latents.shape[0] != num_images or latents.dtype != np.float32:
        raise InputError("latents", expected, f"{latents.dtype} of shape {latents.shape}")
    if not all_finite(latents):
        raise InputError("latents", "finite values", "NaN or infinity")
