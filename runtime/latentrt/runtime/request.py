"""What is asked for: a prompt, and everything else that decides the picture."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError

MAX_IMAGES = 1024


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of a picture in pixels."""

    width: int
    height: int

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("height", self.height)):
            if not _is_integer(value) or not 1 <= value <= 16384:
                raise InputError(f"size {name}", "an integer from 1 to 16384", repr(value))

    @staticmethod
    def parse(text: str) -> Size:
        """From e.g. "768x512", width first; raises `InputError` for anything else."""
        match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
        if match is None:
            raise InputError("size", "WIDTHxHEIGHT such as 512x512", repr(text))
        return Size(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which sampler, over which noise levels, in how many steps.

    `sampler` is a short name ("euler") or a diffusers class name, None the checkpoint's own;
    `schedule` overrides the spacing of its noise levels ("karras", "trailing", ...); `eta` is
    DDIM's share of fresh noise, from 0 to 1.
    """

    sampler: str | None = None
    schedule: str | None = None
    steps: int = 20
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not _is_integer(self.steps) or self.steps < 1:
            raise InputError("steps", "an integer of at least 1", repr(self.steps))
        if not 0 <= self.eta <= 1:
            raise InputError("eta", "a number from 0 to 1", self.eta)


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance (arXiv:2207.12598).

    `scale` is how far to go from the negative prompt's output to the prompt's, as in diffusers; at
    1 or less only the prompt is evaluated. `rescale`, from 0 to 1, pulls the result's standard
    deviation back to the prompt's own (arXiv:2305.08891, section 3.4).
    """

    scale: float = 7.5
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale < 0:
            raise InputError("guidance scale", "a finite number of at least 0", self.scale)
        if not 0 <= self.rescale <= 1:
            raise InputError("guidance rescale", "a number from 0 to 1", self.rescale)

    @property
    def active(self) -> bool:
        """Whether the negative prompt is evaluated at all."""
        return self.scale > 1


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Request:
    """One order of pictures.

    `negative_prompt` None is no negative prompt (for SD 1.x the same as ""); `size` None is the
    checkpoint's own; image i of `num_images` uses `seed + i`, and None draws a seed that the result
    reports; `clip_skip` leaves out that many of the text encoder's last layers for the prompt, not
    for the negative prompt, as in diffusers; a float will do for `guidance`. `latents`, float32
    [num_images, channels, height, width] of unit variance, replaces the noise of the seed.

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

    def __init__(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        size: Size | None = None,
        num_images: int = 1,
        seed: int | None = None,
        sampling: Sampling | None = None,
        guidance: Guidance | float | None = None,
        clip_skip: int = 0,
        latents: NDArray[np.float32] | None = None,
    ) -> None:
        if isinstance(guidance, (int, float)):
            guidance = Guidance(float(guidance))
        put = object.__setattr__
        put(self, "prompt", _text("prompt", prompt))
        put(self, "negative_prompt", negative_prompt)
        put(self, "size", size)
        put(self, "num_images", num_images)
        put(self, "seed", seed)
        put(self, "sampling", sampling or Sampling())
        put(self, "guidance", guidance or Guidance())
        put(self, "clip_skip", clip_skip)
        put(self, "latents", latents)
        if negative_prompt is not None:
            _text("negative_prompt", negative_prompt)
        if not _is_integer(num_images) or not 1 <= num_images <= MAX_IMAGES:
            raise InputError("num_images", f"an integer from 1 to {MAX_IMAGES}", repr(num_images))
        if seed is not None and (not _is_integer(seed) or not 0 <= seed < 2**63 - MAX_IMAGES):
            raise InputError("seed", "an integer from 0 to 2**63 - 1025", repr(seed))
        if not _is_integer(clip_skip) or clip_skip < 0:
            raise InputError("clip_skip", "an integer of at least 0", repr(clip_skip))
        if latents is not None:
            _check_latents(latents, num_images)

    def with_values(self, **values: Any) -> Request:
        """The same request with other fields."""
        return Request(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **values})

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; of given latents only their SHA-256."""
        latents = None if self.latents is None else latents_sha256(self.latents)
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "size": None if self.size is None else str(self.size),
            "num_images": self.num_images,
            "seed": self.seed,
            "sampling": asdict(self.sampling),
            "guidance": asdict(self.guidance),
            "clip_skip": self.clip_skip,
            "latents": latents,
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
                size=None if value["size"] is None else Size.parse(value["size"]),
                num_images=value["num_images"],
                seed=value["seed"],
                sampling=Sampling(**value["sampling"]),
                guidance=Guidance(**value["guidance"]),
                clip_skip=value["clip_skip"],
                latents=latents,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError("request", "the JSON of a request", f"{error!r}") from error


def latents_sha256(latents: NDArray[np.float32]) -> str:
    """SHA-256 of latents: shape, then bytes."""
    array = np.ascontiguousarray(latents, dtype="<f4")
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(field, "a string", repr(value))
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_latents(latents: NDArray[np.float32], num_images: int) -> None:
    if latents.ndim != 4 or latents.shape[0] != num_images or latents.dtype != np.float32:
        expected = f"float32 of shape ({num_images}, channels, height, width)"
        raise InputError("latents", expected, f"{latents.dtype} of shape {latents.shape}")
    if not np.isfinite(latents).all():
        raise InputError("latents", "finite values", "NaN or infinity")
