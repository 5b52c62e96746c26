"""Textual inversions beside a model: which text encoder takes which vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.weights.embedding import ANY, ENCODERS, Embedding

Vectors = Mapping[str, NDArray[np.float32]]
"""The vectors [n, width] of each token."""


def placed(embeddings: Sequence[Embedding], widths: Mapping[str, int]) -> dict[str, Vectors]:
    """What each text encoder takes of the embeddings; `widths` are the encoders'.

    Raises `InputError` naming the file whose vectors no encoder takes.
    """
    found: dict[str, dict[str, NDArray[np.float32]]] = {name: {} for name in widths}
    for embedding in embeddings:
        for key, vectors in embedding.vectors.items():
            found[_encoder(embedding, key, vectors.shape[1], widths)][embedding.token] = vectors
    return dict(found)


def notes_of(embeddings: Sequence[Embedding], widths: Mapping[str, int]) -> list[str]:
    """A sentence for each embedding that one of two text encoders lacks; `placed` accepts them."""
    taken = placed(embeddings, widths)
    return [
        f"embedding {e.path.name}: has no vectors for {name}, which reads {e.token!r} as words"
        for e in embeddings
        for name in widths
        if e.token not in taken[name]
    ]


def _encoder(embedding: Embedding, key: str, width: int, widths: Mapping[str, int]) -> str:
    name = ENCODERS.get(key)
    fitting = [each for each, own in widths.items() if own == width and name in (None, each)]
    if len(fitting) == 1 or (fitting and key == ANY and len(widths) == 1):
        return fitting[0]
    known = " and ".join(f"{own} ({each})" for each, own in widths.items())
    said = f"{embedding.path.name}, {key or 'vectors'} of width {width}"
    raise InputError("weights", f"an embedding for this model, of width {known}", said)
