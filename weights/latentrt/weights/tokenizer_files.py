"""A tokenizer's files in a bundle, and how a tokenizer must fit its text encoder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError
from latentrt.weights.parts import Part


class Tokenizer(Protocol):
    """Tokens [1, length] of a prompt, and the files that give the same ones."""

    def __call__(self, prompt: str) -> NDArray[np.int64]: ...
    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What `latentrt.runtime.text` reads.

    `model` is the JSON of the tokenizers library; `bos`, `eos` and `pad` are ids. `length` counts
    the tokens of a prompt with those around it.
    """

    model: str
    bos: int
    eos: int
    pad: int | None
    length: int
    padding_side: str
    truncation_side: str

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `special_tokens.json` into a new folder."""
        special: dict[str, Any] = {
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
            "pad_token_id": self.pad,
            "model_max_length": self.length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
        }
        folder.mkdir()
        (folder / "tokenizer.json").write_text(self.model, "utf-8")
        (folder / "special_tokens.json").write_text(json.dumps(special, indent=2) + "\n", "utf-8")


def check_lengths(where: str, lengths: Sequence[int]) -> None:
    """Raise `CheckpointError` where two tokenizers have two lengths.

    States of both text encoders have to lie side by side.
    """
    distinct = sorted(set(lengths))
    if len(distinct) > 1:
        problem = f"its tokenizers' lengths differ: {', '.join(str(n) for n in distinct)}"
        raise CheckpointError(where, problem)


def check_end(where: str, encoder: Part) -> None:
    """The id of the end of a text: transformers pools by it, and fails if it is no integer."""
    end: object = encoder.config["eos_token_id"]
    if not isinstance(end, int) or isinstance(end, bool):
        raise CheckpointError(where, f"eos_token_id is {end!r}, expected an integer")


def check_ids(where: str, vocabulary: Mapping[str, int], encoder: Part) -> None:
    """Every id that the tokenizer can give has to be one token's, and a row of the table."""
    shared = [id_ for id_, count in Counter(vocabulary.values()).items() if count > 1]
    if shared:
        raise CheckpointError(where, f"two tokens have the id {shared[0]}")
    rows: int = encoder.config["vocab_size"]
    token = max(vocabulary, key=vocabulary.__getitem__, default="")
    largest = vocabulary.get(token, 0)
    if largest >= rows:
        problem = (
            f"token {token!r} has id {largest}, but the table of {encoder.folder} has {rows} rows: "
            "resize the text encoder, or take the added tokens out of the tokenizer"
        )
        raise CheckpointError(where, problem)
