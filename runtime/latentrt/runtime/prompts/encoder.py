"""One text through the tokenizer and text encoder of a model, or through both of SDXL's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError
from latentrt.runtime.embeddings import Vectors, notes_of, placed
from latentrt.runtime.prompts.chunks import Chunk, ChunkedText, chunk_text, split_chunks
from latentrt.runtime.prompts.remembered import Remembered
from latentrt.runtime.prompts.syntax import Syntax
from latentrt.runtime.rows import Evaluation, Model
from latentrt.runtime.text import PromptTokenizer, TextEncoder
from latentrt.weights.embedding import Embedding

_EXTENDED: Final = 8
"""How many tokenizers with textual inversions are remembered."""
_ENCODED: Final = 64
"""How many encoded chunks are remembered; one of SDXL's takes 0.6 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class _States:
    """An encoder's states of one chunk [length, width], and what it says of the whole [width]."""

    hidden: NDArray[np.float32]
    pooled: NDArray[np.float32] | None


class PromptEncoder:
    """Texts to the U-Net's inputs, each at least one chunk. Thread-safe.

    SDXL takes the states before the last layer and leaves out the final LayerNorm; SD 1 and 2 take
    what comes after both. With `pooled` there is SDXL's `text_embeds` too, of the first chunk. The
    last chunks are remembered by their tokens, weights, embeddings and skipped layers.
    """

    def __init__(self, bundle: Bundle, model: Callable[[str], Model], *, pooled: bool) -> None:
        names = [n for n in ("text_encoder", "text_encoder_2") if n in bundle.manifest.components]
        self._encoders = {name: TextEncoder(bundle, model(name)) for name in names}
        self._tokenizers = tokenizers_of(bundle, names)
        self._pooled = pooled
        self.length = next(iter(self._tokenizers.values())).length
        self._widths = {name: encoder.width for name, encoder in self._encoders.items()}
        # A copy of CLIP's vocabulary takes a quarter of a second.
        self._extended = lru_cache(maxsize=_EXTENDED)(self._extend)
        self._encoded = Remembered[object, _States](_ENCODED)

    def check(self, embeddings: Sequence[Embedding]) -> None:
        """Raise `InputError` for an embedding that does not fit the model."""
        for name, vectors in placed(embeddings, self._widths).items():
            self._tokenizer(name, vectors)

    def notes(self, embeddings: Sequence[Embedding]) -> list[str]:
        """What is to be said of embeddings, a sentence each."""
        return notes_of(embeddings, self._widths)

    def forget(self) -> None:
        """Encode every text again from now on."""
        self._encoded.clear()

    @property
    def most_skipped(self) -> int:
        """The largest clip skip: one layer has to be left, beside the one SDXL leaves out."""
        fewest = min(encoder.layers for encoder in self._encoders.values())
        return fewest - (2 if self._pooled else 1)

    def chunked(
        self, field: str, text: str, syntax: Syntax, embeddings: Sequence[Embedding]
    ) -> ChunkedText:
        """A text's tokens in chunks; raises `InputError` for one that is too long."""
        vectors = placed(embeddings, self._widths)
        tokenizers = {name: self._tokenizer(name, vectors[name]) for name in self._encoders}
        return chunk_text(field, text, syntax, tokenizers)

    def __call__(
        self, text: ChunkedText, count: int, embeddings: Sequence[Embedding], clip_skip: int
    ) -> Evaluation[dict[str, NDArray[np.float32]]]:
        """The arrays of a text, filled up with empty chunks to `count` of them."""
        vectors = placed(embeddings, self._widths)
        used = tuple((each.token, each.sha256) for each in embeddings)
        states: dict[str, list[_States]] = {}
        for name in self._encoders:
            tokenizer = self._tokenizer(name, vectors[name])
            own = text.chunks[name]
            (empty,) = split_chunks((), tokenizer)
            states[name] = []
            for chunk in (*own, *[empty] * (count - len(own))):
                key = name, chunk.key, used, clip_skip
                found = self._encoded.get(key)
                if found is None:
                    added = {i: vectors[name][t][n] for i, (t, n) in tokenizer.added.items()}
                    found = yield from self._encode(name, chunk, added, clip_skip)
                    self._encoded.put(key, found)
                states[name].append(found)
        hidden = [np.concatenate([each.hidden for each in own]) for own in states.values()]
        arrays = {"encoder_hidden_states": np.concatenate(hidden, axis=-1)}
        pooled = list(states.values())[-1][0].pooled
        return arrays if pooled is None else {**arrays, "text_embeds": pooled}

    def _encode(
        self, name: str, chunk: Chunk, added: Mapping[int, NDArray[np.float32]], clip_skip: int
    ) -> Evaluation[_States]:
        encoder = self._encoders[name]
        states = yield from encoder(chunk.ids, added)
        if not self._pooled:
            return _States(weigh(encoder.normalised(states, clip_skip), chunk.weights), None)
        hidden = weigh(encoder.plain(states, clip_skip + 1), chunk.weights)
        if name != list(self._encoders)[-1]:
            return _States(hidden, None)
        pooled = encoder.pooled(states)
        pooled.flags.writeable = False  # several requests may have it
        return _States(hidden, pooled)

    def _tokenizer(self, name: str, vectors: Vectors) -> PromptTokenizer:
        if not vectors:
            return self._tokenizers[name]
        return self._extended(name, tuple((token, len(v)) for token, v in vectors.items()))

    def _extend(self, name: str, counts: tuple[tuple[str, int], ...]) -> PromptTokenizer:
        return self._tokenizers[name].with_tokens(dict(counts))


def tokenizers_of(bundle: Bundle, encoders: Sequence[str]) -> dict[str, PromptTokenizer]:
    """The tokenizer of each text encoder, all of one length; raises `BundleError`."""
    found = {
        name: PromptTokenizer.of(bundle, name.replace("text_encoder", "tokenizer"))
        for name in encoders
    }
    lengths = {tokenizer.length for tokenizer in found.values()}
    if len(lengths) != 1:
        problem = f"has tokenizers of {sorted(lengths)} tokens, expected one length"
        raise BundleError(bundle.path, problem)
    return found


def weigh(states: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """States [n, width] times the weights [n] of their tokens, brought back to their mean.

    Source: the rules of AUTOMATIC1111's web UI.
    """
    if (weights == 1).all():
        return states
    changed: NDArray[np.float32] = states * weights[:, np.newaxis]
    mean = float(changed.mean(dtype=np.float64))
    if mean == 0:
        return changed
    changed *= float(states.mean(dtype=np.float64)) / mean
    return changed
