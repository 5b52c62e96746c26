"""The U-Net's inputs beside latents and timesteps: prompts, sizes, a guidance scale.

A row of a model call is a set of named arrays. The U-Net's graph says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, InputError
from latentrt.runtime.denoiser import Condition
from latentrt.runtime.embeddings import Vectors, notes_of, placed
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Evaluation, Model
from latentrt.runtime.size import Size
from latentrt.runtime.text import PromptTokenizer, TextEncoder, TextStates
from latentrt.runtime.weights_fields import embeddings_of
from latentrt.weights.embedding import Embedding

_KNOWN: Final = frozenset(
    {"sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids", "timestep_cond"}
)
_EXTENDED: Final = 8
"""How many tokenizers with textual inversions are remembered."""
_SHOWN: Final = 80
"""Characters of a prompt's lost end that a note has room for."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """The prompts of a request as the U-Net takes them, arrays float32 without batch axis.

    `prompts` are the prompt and every further one; `negative` is None where no such row is ever
    evaluated; `notes` say what was cut from a prompt.
    """

    prompts: tuple[Condition, ...]
    negative: Condition | None
    notes: tuple[str, ...]


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
        self._prompts = _PromptEncoder(bundle, model, pooled="text_embeds" in self._inputs)
        self._zeros = manifest.force_zeros_for_empty_prompt

    @property
    def length(self) -> int:
        """Tokens of a prompt, and so the text encoders' `sequence`."""
        return self._prompts.length

    @property
    def guided(self) -> bool:
        """Whether the U-Net is to be guided; if not, it takes the guidance scale as an input."""
        return "timestep_cond" not in self._inputs

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

    def __call__(self, request: Request) -> Evaluation[Conditioning]:
        """Encode the prompts of a request whose size is resolved; `check` accepts it."""
        notes = self._prompts.notes(embeddings_of(request.weights))
        same = {**self._sizes(request), **self._scale(request)}
        prompts = [("prompt", request.prompt, 1.0)]
        prompts += [(f"composed[{i}]", *each) for i, each in enumerate(request.composed)]
        conditions: list[Condition] = []
        for field, text, weight in prompts:
            own = yield from self._prompts(field, text, request, request.clip_skip, notes)
            conditions.append(Condition({**own, **same}, weight))
        negative: Condition | None = None
        if self.guided and request.guidance.active:
            if request.negative_prompt is None and self._zeros:
                first = conditions[0].constant
                own = {n: a if n in same else np.zeros_like(a) for n, a in first.items()}
            else:
                # As in diffusers, the negative prompt keeps the layers that the prompt leaves out.
                text = request.negative_prompt or ""
                own = yield from self._prompts("negative_prompt", text, request, 0, notes)
            negative = Condition({**own, **same})
        return Conditioning(tuple(conditions), negative, tuple(notes))

    def _sizes(self, request: Request) -> dict[str, NDArray[np.float32]]:
        """Original height and width, top and left of the crop, target height and width.

        Source: arXiv:2307.01952, section 2.2; diffusers' `StableDiffusionXLPipeline`.
        """
        if "time_ids" not in self._inputs:
            return {}
        assert request.size is not None
        original = request.original_size or request.size
        target = request.target_size or request.size
        numbers = (*_height_first(original), *request.crop, *_height_first(target))
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


class _PromptEncoder:
    """One prompt through the tokenizer and encoder of a model, or through both of SDXL's.

    SDXL takes the states before the last layer and leaves out the final LayerNorm; SD 1 and 2 take
    what comes after both.
    """

    def __init__(self, bundle: Bundle, model: Callable[[str], Model], *, pooled: bool) -> None:
        names = [n for n in ("text_encoder", "text_encoder_2") if n in bundle.manifest.components]
        self._encoders = {name: TextEncoder(bundle, model(name)) for name in names}
        self._tokenizers = {
            name: PromptTokenizer.of(bundle, name.replace("text_encoder", "tokenizer"))
            for name in names
        }
        self._pooled = pooled
        lengths = {tokenizer.length for tokenizer in self._tokenizers.values()}
        if len(lengths) != 1:
            problem = f"has tokenizers of {sorted(lengths)} tokens, expected one length"
            raise BundleError(bundle.path, problem)
        self.length = lengths.pop()
        self._widths = {name: encoder.width for name, encoder in self._encoders.items()}
        # A copy of CLIP's vocabulary takes a quarter of a second.
        self._extended = lru_cache(maxsize=_EXTENDED)(self._extend)

    def check(self, embeddings: Sequence[Embedding]) -> None:
        """Raise `InputError` for an embedding that does not fit the model."""
        for name, vectors in placed(embeddings, self._widths).items():
            self._tokenizer(name, vectors)

    def notes(self, embeddings: Sequence[Embedding]) -> list[str]:
        """What is to be said of embeddings, a sentence each."""
        return notes_of(embeddings, self._widths)

    def _tokenizer(self, name: str, vectors: Vectors) -> PromptTokenizer:
        if not vectors:
            return self._tokenizers[name]
        return self._extended(name, tuple((token, len(v)) for token, v in vectors.items()))

    def _extend(self, name: str, counts: tuple[tuple[str, int], ...]) -> PromptTokenizer:
        return self._tokenizers[name].with_tokens(dict(counts))

    @property
    def most_skipped(self) -> int:
        """The largest clip skip: one layer has to be left, beside the one SDXL leaves out."""
        fewest = min(encoder.layers for encoder in self._encoders.values())
        return fewest - (2 if self._pooled else 1)

    def __call__(
        self, field: str, prompt: str, request: Request, clip_skip: int, notes: list[str]
    ) -> Evaluation[dict[str, NDArray[np.float32]]]:
        """The prompt's own arrays; what was cut is added to `notes` under the field's name."""
        vectors = placed(embeddings_of(request.weights), self._widths)
        tokenizers = {name: self._tokenizer(name, vectors[name]) for name in self._encoders}
        tokens = {name: tokenizer(prompt) for name, tokenizer in tokenizers.items()}
        cut = tokens["text_encoder"].cut
        if cut:
            shown = cut if len(cut) <= _SHOWN else f"{cut[: _SHOWN - 3]}..."
            notes.append(f"{field}: cut after {self.length - 2} tokens; left out: {shown!r}")
        states: dict[str, TextStates] = {}
        for name, encoder in self._encoders.items():
            added = {
                id_: vectors[name][token][index]
                for id_, (token, index) in tokenizers[name].added.items()
            }
            states[name] = yield from encoder(tokens[name].ids, added)
        if not self._pooled:
            encoder = self._encoders["text_encoder"]
            hidden = encoder.normalised(states["text_encoder"], clip_skip)
            return {"encoder_hidden_states": hidden}
        plain = [e.plain(states[name], clip_skip + 1) for name, e in self._encoders.items()]
        last = list(self._encoders)[-1]
        return {
            "encoder_hidden_states": np.concatenate(plain, axis=-1),
            "text_embeds": self._encoders[last].pooled(states[last]),
        }


def _height_first(size: Size) -> tuple[int, int]:
    return size.height, size.width
