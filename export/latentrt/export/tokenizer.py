"""A checkpoint's tokenizers, whatever files they come in, as a bundle has them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from latentrt.bundle.errors import CheckpointError
from latentrt.export.family import Family, tokenizer_of
from latentrt.export.parts import Part
from latentrt.export.source import Source


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The library's tokenizer, and the number of tokens that its text encoder is given."""

    library: CLIPTokenizer
    length: int

    def __call__(self, prompt: str) -> NDArray[np.int64]:
        """Tokens [1, length], from BOS to padding."""
        ids = self.library(
            [prompt], padding="max_length", truncation=True, max_length=self.length
        ).input_ids
        return np.array(ids, dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write what `latentrt.runtime.text` reads."""
        special: dict[str, Any] = {
            "bos_token_id": self.library.bos_token_id,
            "eos_token_id": self.library.eos_token_id,
            "pad_token_id": self.library.pad_token_id,
            "model_max_length": self.length,
        }
        folder.mkdir()
        (folder / "tokenizer.json").write_text(
            self.library.backend_tokenizer.to_str(), encoding="utf-8"
        )
        (folder / "special_tokens.json").write_text(
            json.dumps(special, indent=2) + "\n", encoding="utf-8"
        )


def open_tokenizers(
    source: Source, family: Family, parts: Mapping[str, Part], folder: Path
) -> dict[str, Tokenizer]:
    """The tokenizer of each text encoder, by the encoder's name; `folder` is one to work in.

    Raises `CheckpointError` for files that cannot be read, and where two encoders would be given
    sequences of two lengths, whose states could not lie side by side.
    """
    tokenizers = {
        encoder: _open(source, tokenizer_of(encoder), parts[encoder], folder)
        for encoder in family.text_encoders
    }
    lengths = {t.length for t in tokenizers.values()}
    if len(lengths) > 1:
        problem = f"its tokenizers' lengths differ: {', '.join(str(n) for n in sorted(lengths))}"
        raise CheckpointError(source.name, problem)
    return tokenizers


def _open(source: Source, name: str, encoder: Part, folder: Path) -> Tokenizer:
    files = source.tokenizer(name)
    # Below the bundle to be: whatever ends the export, what is left of it goes with the rest.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for file, content in files.items():
            (Path(scratch) / file).write_bytes(content)
        try:
            library = CLIPTokenizer.from_pretrained(scratch)
        except Exception as error:  # whatever a library says of files it cannot read
            raise CheckpointError(f"{source.name}/{name}", f"unreadable: {error}") from error
    longest = int(encoder.config["max_position_embeddings"])
    return Tokenizer(library, min(int(library.model_max_length), longest))
