"""A checkpoint's tokenizers, read from any of their formats and written in the bundle's."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import transformers
from diffusers.loaders import TextualInversionLoaderMixin
from numpy.typing import NDArray
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerBase

from latentrt.bundle.errors import CheckpointError, FileError
from latentrt.bundle.golden import RUN_PROMPT
from latentrt.runtime.text import PromptTokenizer
from latentrt.weights.families import Family, tokenizer_of
from latentrt.weights.parts import Part
from latentrt.weights.source import Source
from latentrt.weights.tokenizer_files import TokenizerFiles, check_end, check_ids, check_lengths

_ADDED: Final = 100
"""Number of added tokens of a tokenizer that are tried."""

_LONG: Final = "sequence-length-is-longer-than-the-specified-maximum"
"""The warning of transformers for a long prompt, which is cut afterwards."""


@dataclass(frozen=True, slots=True)
class LibraryTokenizer:
    """The library's tokenizer, and the number of tokens that its text encoder takes.

    `bos` and `eos` are the ids of the tokens before and after a prompt.
    """

    library: Any
    length: int
    bos: int
    eos: int

    def __call__(self, prompt: str) -> NDArray[np.int64]:
        """Tokens [1, length], from BOS to padding, as a diffusers pipeline gives them."""
        # The loader's own method; it uses nothing of a loader.
        converted = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, self.library)
        ids = self.library(
            [converted], padding="max_length", truncation=True, max_length=self.length
        ).input_ids
        return np.array(ids, dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write the files that `latentrt.runtime.text` reads."""
        TokenizerFiles(
            model=self.library.backend_tokenizer.to_str(),
            bos=self.bos,
            eos=self.eos,
            pad=self.library.pad_token_id,
            length=self.length,
            padding_side=self.library.padding_side,
            truncation_side=self.library.truncation_side,
        ).save(folder)


def open_tokenizers(
    source: Source, family: Family, parts: Mapping[str, Part], folder: Path
) -> dict[str, LibraryTokenizer]:
    """The tokenizer of each text encoder, by the encoder's name; `folder` is one to work in.

    Raises `CheckpointError` for files that cannot be read and ids that the text encoder lacks. It
    also raises where two tokenizers have two lengths: states of both have to lie side by side.
    """
    tokenizers = {
        encoder: _open(source, tokenizer_of(encoder), parts[encoder], folder)
        for encoder in family.text_encoders
    }
    check_lengths(source.name, [t.length for t in tokenizers.values()])
    return tokenizers


def _open(source: Source, name: str, encoder: Part, folder: Path) -> LibraryTokenizer:
    where = f"{source.name}/{name}"
    check_end(f"{source.name}/{encoder.folder}/config.json", encoder)
    kind = _kind(source, name)
    files = source.tokenizer(name)
    # Inside the unfinished bundle, so that it is removed with it if the export ends early.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        loaded, saved = Path(scratch) / "loaded", Path(scratch) / "saved"
        loaded.mkdir()
        for file, content in files.items():
            (loaded / file).write_bytes(content)
        try:
            library = kind.from_pretrained(loaded, trust_remote_code=False)
            library.deprecation_warnings[_LONG] = True
            longest = min(int(library.model_max_length), encoder.config["max_position_embeddings"])
            around = library("").input_ids
            vocabulary = library.get_vocab()
        except Exception as error:  # whatever a library says of files it cannot read
            raise CheckpointError(where, f"unreadable: {error}") from error
        check_ids(where, vocabulary, encoder)
        if len(around) != 2:
            problem = (
                f"puts {len(around)} tokens around a prompt, expected one before and one after"
            )
            raise CheckpointError(where, problem)
        tokenizer = LibraryTokenizer(library, longest, *around)
        try:
            expected = {text: tokenizer(text)[0].tolist() for text in _samples(library)}
            tokenizer.save(saved)
            runtime = PromptTokenizer(saved)
            differing = [t for t, ids in expected.items() if runtime(t).ids.tolist() != ids]
        except FileError as error:
            raise CheckpointError(where, f"cannot be stored: {error.problem}") from error
        except Exception as error:
            raise CheckpointError(where, f"cannot tokenize a prompt: {error}") from error
        if differing:
            problem = f"gives other tokens than transformers, for {differing[0][:80]!r}"
            raise CheckpointError(where, problem)
    return tokenizer


def _kind(source: Source, name: str) -> Any:
    """The class that `model_index.json` names, by default CLIP's."""
    entry: object = source.index.get(name)
    if not isinstance(entry, list | tuple):
        return CLIPTokenizer
    stated = cast("list[object]", entry)[-1]
    try:
        kind: Any = getattr(transformers, str(stated), None)
    except Exception:  # a class of a library that is not installed
        kind = None
    if kind is AutoTokenizer or (
        isinstance(kind, type) and issubclass(kind, PreTrainedTokenizerBase)
    ):
        return kind
    problem = f"{name} is {stated!r}, expected a tokenizer of transformers such as CLIPTokenizer"
    raise CheckpointError(f"{source.name}/model_index.json", problem)


def _samples(library: Any) -> list[str]:
    """Prompts that have to give the same tokens with and without transformers."""
    added = [str(token) for token in library.get_added_vocab()][:_ADDED]
    return ["", RUN_PROMPT, f"{RUN_PROMPT}, " * 20, *(f"A {token} red" for token in added)]
