"""The U-Net's inputs beside latents and timesteps: prompts, sizes, a guidance scale.

A row of a model call is a set of named arrays. The U-Net's graph says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, InputError
from latentrt.runtime.denoiser import Condition
from latentrt.runtime.prompts.chunks import ChunkedText
from latentrt.runtime.prompts.encoder import PromptEncoder
from latentrt.runtime.prompts.reading import ReadPrompt, positive_prompts, read_prompt
from latentrt.runtime.prompts.schedule import Steps
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Arrays, Evaluation, Model
from latentrt.runtime.size import Size
from latentrt.runtime.weights_fields import embeddings_of

_WITH_SCORE: Final = 5
"""Numbers that a refiner takes beside its text."""
_SCORE, _NEGATIVE_SCORE = 6.0, 2.5
"""Aesthetic scores of the prompt and of the negative prompt, diffusers' defaults."""
_KNOWN: Final = frozenset(
    {"sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids", "timestep_cond"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """The prompts of a request as the U-Net takes them, arrays float32 without batch axis.

    `prompts` are the prompt and every further one; `negative` is None where no such row is ever
    evaluated; `notes` say what was cut from a prompt. `towards` is the prompt that an interpolation
    goes to. Each has `length` tokens.
    """

    prompts: tuple[Condition, ...]
    negative: Condition | None
    notes: tuple[str, ...]
    length: int
    towards: Condition | None = None


class Conditioner:
    """Requests to conditioning, as a bundle's model takes it. Thread-safe.

    `model` gives the bundle's component of a name.
    """

    def __init__(self, bundle: Bundle, model: Callable[[str], Model]) -> None:
        manifest = bundle.manifest
        self._inputs = {spec.name: spec for spec in manifest.components["unet"].inputs}
        unknown = sorted(set(self._inputs) - _KNOWN)
        if unknown:
            raise BundleError(bundle.path, f"has a U-Net with an input {unknown[0]!r}")
        self._prompts = PromptEncoder(bundle, model, pooled="text_embeds" in self._inputs)
        self._zeros = manifest.force_zeros_for_empty_prompt

    @property
    def length(self) -> int:
        """Tokens of a chunk, and so the text encoders' `sequence`."""
        return self._prompts.length

    @property
    def guided(self) -> bool:
        """Whether the U-Net is to be guided; if not, it takes the guidance scale as an input."""
        return "timestep_cond" not in self._inputs

    def forget_prompts(self) -> None:
        """Encode every prompt again from now on."""
        self._prompts.forget()

    def check(self, request: Request) -> None:
        """Raise `InputError` naming a field that this bundle's model cannot use."""
        most = self._prompts.most_skipped
        if request.clip_skip > most:
            expected = f"at most {most}: the text encoder's layers, less those always left out"
            raise InputError("clip_skip", expected, request.clip_skip)
        self._prompts.check(embeddings_of(request.weights))
        if "time_ids" not in self._inputs:
            given = {
                "original_size": request.original_size is not None,
                "crop": tuple(request.crop) != (0, 0),
                "target_size": request.target_size is not None,
            }
            for field, is_given in given.items():
                if is_given:
                    got = getattr(request, field)
                    raise InputError(field, "none: this model takes no sizes", got)
        if not self.guided:
            if callable(request.guidance.scale):
                expected = "one number: this model takes the scale as an input"
                raise InputError("guidance scale", expected, "a function of sigma")
            if request.composed:
                expected = "none: this model is not guided"
                raise InputError("composed", expected, f"{len(request.composed)} prompts")
            if len(request.prompts) > 1:
                raise InputError("prompt", "one without AND: this model is not guided", "several")

    def __call__(self, request: Request, steps: Steps | None = None) -> Evaluation[Conditioning]:
        """Encode the prompts of a request whose size is resolved; `check` accepts it.

        `steps` are those that the prompts change within, the request's own by default. Raises
        `InputError` for a prompt that is too long.
        """
        embeddings = embeddings_of(request.weights)
        chunk = partial(self._prompts.chunked, syntax=request.syntax, embeddings=embeddings)
        within = Steps(request.sampling.steps) if steps is None else steps
        read = partial(read_prompt, request=request, steps=within, chunk=chunk)
        prompts = [read(f, text, weight=weight) for f, text, weight in positive_prompts(request)]
        guided = self.guided and request.guidance.active
        negative: ReadPrompt | None = None
        if guided and not (request.negative_prompt is None and self._zeros):
            negative = read("negative_prompt", request.negative_prompt or "")
        between = request.interpolation
        end: ReadPrompt | None = None
        if between is not None and between.prompt is not None:
            end = read("interpolation", between.prompt)
        all_ = [*prompts, *(each for each in (negative, end) if each is not None)]
        chunks = max(each.chunks for each in all_)
        encode = partial(self._prompts, count=chunks, embeddings=embeddings)
        scale = self._scale(request)
        same = {**self._sizes(request, _SCORE), **scale}
        opposite = {**self._sizes(request, _NEGATIVE_SCORE), **scale}
        positive = partial(encode, clip_skip=request.clip_skip)
        conditions: list[Condition] = []
        for each in prompts:
            conditions.append((yield from _condition(each, positive, same)))
        towards = None if end is None else (yield from _condition(end, positive, same))
        other: Condition | None = None
        if negative is not None:
            # As in diffusers, the negative prompt keeps the layers that the prompt leaves out.
            other = yield from _condition(negative, partial(encode, clip_skip=0), opposite)
        elif guided:
            first = conditions[0].constant
            zeros = {n: np.zeros_like(a) for n, a in first.items() if n not in opposite}
            other = Condition({**zeros, **opposite})
        notes = self._prompts.notes(embeddings)
        notes += [note for each in all_ for note in each.notes(self.length)]
        return Conditioning(tuple(conditions), other, tuple(notes), chunks * self.length, towards)

    def _sizes(self, request: Request, score: float) -> dict[str, NDArray[np.float32]]:
        """Original height and width, top and left of the crop, target height and width.

        A refiner takes an aesthetic score in place of the target.

        Source: arXiv:2307.01952, section 2.2; diffusers' `StableDiffusionXLPipeline` and
        `StableDiffusionXLImg2ImgPipeline`.
        """
        if "time_ids" not in self._inputs:
            return {}
        assert request.size is not None
        original = request.original_size or request.size
        target = request.target_size or request.size
        scored = self._inputs["time_ids"].dims[-1] == _WITH_SCORE
        last = (score,) if scored else _height_first(target)
        numbers = (*_height_first(original), *request.crop, *last)
        return {"time_ids": np.array(numbers, dtype=np.float32)}

    def _scale(self, request: Request) -> dict[str, NDArray[np.float32]]:
        if self.guided:
            return {}
        width = self._inputs["timestep_cond"].dims[-1]
        assert isinstance(width, int)
        scale = request.guidance.scale
        assert not callable(scale)
        return {"timestep_cond": embed_scale(scale, width)}


def embed_scale(guidance_scale: float, width: int) -> NDArray[np.float32]:
    """A distilled U-Net's input for the guidance scale: sines, then cosines, float32 [width].

    Of 1000 (scale - 1) at frequencies from 1 down to 1/10000. Each operation is rounded to float32,
    as in training: near 10000, a sine's argument has steps of a thousandth.

    Source: arXiv:2310.04378, section 4; diffusers' `get_guidance_scale_embedding`.
    """
    half = width // 2
    step = np.float32(math.log(10000.0)) / np.float32(half - 1)
    exponents: NDArray[np.float32] = np.arange(half, dtype=np.float32) * -step
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles: NDArray[np.float32] = np.float32(guidance_scale - 1) * np.float32(1000) * frequencies
    embedding = np.zeros(width, dtype=np.float32)  # an odd width ends in a zero
    embedding[:half] = np.sin(angles)
    embedding[half : 2 * half] = np.cos(angles)
    return embedding


def _condition(
    prompt: ReadPrompt,
    encode: Callable[[ChunkedText], Evaluation[Mapping[str, NDArray[np.float32]]]],
    same: Arrays,
) -> Evaluation[Condition]:
    """The condition of a prompt, each of whose texts is encoded once; `same` are other inputs."""
    known: dict[ChunkedText, Arrays] = {}
    for _, text in prompt.texts:
        if text not in known:
            own = yield from encode(text)
            known[text] = {**own, **same}
    arrays = [known[text] for _, text in prompt.texts]
    begins = [last for last, _ in prompt.texts[:-1]]
    return Condition(arrays[0], prompt.weight, tuple(zip(begins, arrays[1:], strict=True)))


def _height_first(size: Size) -> tuple[int, int]:
    return size.height, size.width
