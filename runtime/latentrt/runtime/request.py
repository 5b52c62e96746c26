"""A request: a prompt, and everything else that decides the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import integer, shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import json_object, number
from latentrt.runtime.control import Control
from latentrt.runtime.guidance import MAX_SCALE, Guidance
from latentrt.runtime.interpolation import Interpolation
from latentrt.runtime.prompts.composition import split_prompts
from latentrt.runtime.prompts.syntax import PLAIN, WEBUI, Syntax
from latentrt.runtime.provenance import Provenance
from latentrt.runtime.refiner import Refiner
from latentrt.runtime.request_fields import (
    DEFAULT_TASK,
    FIELDS,
    Attachments,
    Tiling,
    named_latents,
    number_of_images,
)
from latentrt.runtime.reuse import Reuse
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.size import Size
from latentrt.runtime.tasks import Task
from latentrt.runtime.weights_fields import Weights

SCHEMA: Final = 5
"""The newest form of a request's JSON that is read; JSON without a number is of the first.

2 added `task`, 3 `weights`, 4 `syntax`, `controls` and further tasks, 5
`reuse` and more of guidance.
"""
_PLAIN_UNTIL: Final = 3
"""The newest form whose prompts were read as plain text."""
MAX_LENGTH: Final = 1 << 20
"""Characters of a request's texts and noise levels as JSON: what a picture's text can hold."""


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Request:
    """One order of pictures.

    `task` says what they begin with: `TextToImage`, or another of `latentrt.runtime.tasks`.
    `negative_prompt` None is no negative prompt (for SD 1.x the same as ""). `syntax` is how the
    prompts are read. "webui" is AUTOMATIC1111's: weights, schedules and any length. "plain" is
    diffusers': text that is cut where it is too long. `size` None is the
    task's, or the checkpoint's own. Image i of `num_images` uses `seed + i`; None draws a seed that
    the result reports. `generator` is whose numbers a seed gives: "torch" (PyTorch's on the CPU),
    "torch-cuda" or "numpy". `composed` are further prompts, each with the weight it pulls with
    beside the prompt's 1 (arXiv:2206.01714); a negative weight pushes away. `clip_skip` leaves out
    that many of the text encoder's last layers for the prompt, not for the negative prompt, as in
    diffusers. A number will do for `guidance`, and a sampler's name for `sampling`. `latents`,
    float32 [num_images, channels, height, width] of unit variance, replaces the noise of the seed.
    `original_size`, `crop` (top, left) and `target_size` are inputs of SDXL; the sizes are the
    picture's own where they are None. `weights` are textual inversions, whose tokens the prompts
    may name, and LoRAs. `controls` are ControlNets with their pictures; a `refiner`
    draws the last steps. `subseed_strength`, from 0
    to 1, is how far the noise goes from that of the seed to that of `subseed`, along an arc; above
    0, image i has the same seed and `subseed + i`. With an `interpolation`, the pictures go from
    this prompt and seed to others. `tiling` decodes large pictures in tiles: "on",
    "off", or "auto" where the memory would not do. `reuse` answers some steps from earlier ones:
    faster, and another picture. `provenance` is what it was drawn with: a
    result's request has it. A model that draws it again notes where it differs. Requests are equal,
    whatever their provenance, where they ask for the same pictures.

    Raises `InputError` naming the field that cannot be used.
    """

    prompt: str
    negative_prompt: str | None
    syntax: Syntax
    task: Task
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
    weights: tuple[Weights, ...]
    refiner: Refiner | None
    subseed: int | None
    subseed_strength: float
    interpolation: Interpolation | None
    tiling: Tiling
    controls: tuple[Control, ...]
    reuse: Reuse | None
    provenance: Provenance | None

    def __init__(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        syntax: Syntax = WEBUI,
        task: Task = DEFAULT_TASK,
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
        weights: Sequence[Weights] = (),
        refiner: Refiner | None = None,
        subseed: int | None = None,
        subseed_strength: float = 0.0,
        interpolation: Interpolation | None = None,
        tiling: Tiling = "auto",
        controls: Sequence[Control] = (),
        reuse: Reuse | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        given = locals()
        count = number_of_images(num_images)
        for name, field in FIELDS.items():
            object.__setattr__(self, name, field.check(name, given[name], count))
        for _, weight in self.prompts:
            expected = f"weights of at most {MAX_SCALE:g} either way"
            number("prompt", expected, weight, -MAX_SCALE, MAX_SCALE)
        if len(self.prompts) > 1 and not self.guidance.active:
            raise InputError("guidance scale", "above 1 with several prompts", self.guidance.scale)
        _check_interpolation(self)
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

    def seed_of(self, image: int) -> int:
        """The seed of one of the pictures; the request has one."""
        assert self.seed is not None
        same = self.subseed_strength > 0 or self.interpolation is not None
        return self.seed if same else self.seed + image

    def variation_of(self, image: int) -> tuple[int, float] | None:
        """The other seed of one of the pictures, and the share of its noise."""
        between = self.interpolation
        if between is not None and between.seed is not None:
            return between.seed, between.share_of(image, self.num_images)
        if self.subseed_strength == 0 or self.subseed is None:
            return None
        return self.subseed + (image if between is None else 0), self.subseed_strength

    def of_image(self, image: int) -> Request:
        """The request that makes one of the pictures alone; the request has a seed."""
        between, given = self.interpolation, self.latents
        subseed = self.subseed if self.subseed_strength > 0 else None
        if between is not None:
            between = between.at(between.share_of(image, self.num_images))
        elif subseed is not None:
            subseed += image
        return self.with_values(
            num_images=1,
            seed=self.seed_of(image),
            subseed=subseed,
            interpolation=between,
            latents=None if given is None else given[image : image + 1],
        )

    @property
    def prompts(self) -> tuple[tuple[str, float], ...]:
        """The prompt, or those between its `AND`s, and the composed ones, with their weights."""
        if self.syntax == PLAIN:
            return ((self.prompt, 1.0), *self.composed)
        return (*split_prompts(self.prompt), *self.composed)

    def with_values(self, **values: Any) -> Request:
        """The same request with other fields; raises `InputError` for one that it has not."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in values:
            if name not in own:
                raise InputError(name, f"a field of a request: {', '.join(own)}", "another")
        return Request(**{**own, **values})

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; of given latents only their SHA-256."""
        coded = {name: field.to_json(getattr(self, name)) for name, field in FIELDS.items()}
        return {"schema": SCHEMA, **coded}

    @staticmethod
    def from_json(value: object, attachments: Attachments = ()) -> Request:
        """From `to_json`, of this version or an older one; keys that are absent have their default.

        `attachments` are what the JSON names by hashes: latents, or rows of them among others,
        pictures, embeddings, LoRAs, ControlNets and a refiner. Raises `InputError`, also for a
        newer schema and for unknown keys.
        """
        found = json_object("request", value)
        schema = found.pop("schema", 1)
        if integer("schema", "an integer of at least 1", schema, 1) > SCHEMA:
            expected = f"at most {SCHEMA}; a newer version of latentrt reads this request"
            raise InputError("schema", expected, shown(schema))
        found = json_object("request", found, FIELDS)
        if schema <= _PLAIN_UNTIL:
            found.setdefault("syntax", PLAIN)
        if "prompt" not in found:
            raise InputError("prompt", "a string", "none")
        arrays = [each for each in attachments if isinstance(each, np.ndarray)]
        files = ("weights", "controls", "refiner")
        values = {
            name: field.from_json(name, found[name], attachments if name in files else arrays)
            for name, field in FIELDS.items()
            if name in found
        }
        named = values.pop("latents", None)
        if named is None and any(each.ndim == 4 for each in arrays):
            raise InputError("latents", "none: the picture was made from its seed", "an array")
        if named is not None:
            count = number_of_images(values.get("num_images", 1))
            values["latents"] = named_latents(named, arrays, count)
        return Request(**values)


def _from_values(values: Mapping[str, Any]) -> Request:
    return Request(**values)


def _check_interpolation(request: Request) -> None:
    """Raise `InputError` for an interpolation that does not go with the other fields."""
    between = request.interpolation
    if between is None:
        return
    if between.seed is not None and request.subseed_strength > 0:
        expected = "no seed beside a subseed strength"
        raise InputError("interpolation", expected, f"seed {between.seed}")
    if between.prompt is None:
        return
    ends = 1 if request.syntax == PLAIN else len(split_prompts(between.prompt))
    if len(request.prompts) > 1 or ends > 1:
        raise InputError("interpolation", "one prompt without AND at either end", "several")


def _check_length(request: Request) -> None:
    """Raise `InputError` for a request that is too long for a picture's text.

    Only what a run does not change is counted.
    """
    sampling, between = request.sampling, request.interpolation
    counted = (
        (request.prompt, request.negative_prompt, request.composed),
        between and between.prompt,
        (sampling.sampler, sampling.schedule, sampling.timesteps, sampling.sigmas),
    )
    length = len(json.dumps(counted, ensure_ascii=False))
    if length > MAX_LENGTH:
        expected = f"at most {MAX_LENGTH} characters of prompts and noise levels"
        raise InputError("request", expected, length)
