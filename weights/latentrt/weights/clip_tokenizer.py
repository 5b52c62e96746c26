"""CLIP's tokenizer from its files, without transformers: the same ids for every prompt.

It covers the files of `CLIPTokenizer` and `CLIPTokenizerFast`. Files of any other kind are refused,
and so are settings whose effect is unknown.

Source: `CLIPTokenizer`, `TokenizersBackend` and `PreTrainedTokenizerBase` of transformers 5.23.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from latentrt.bundle.errors import CheckpointError
from latentrt.weights.added_tokens import expand, vectors_of
from latentrt.weights.clip_vocabulary import WORD_END
from latentrt.weights.families import Family, tokenizer_of
from latentrt.weights.parts import Part
from latentrt.weights.source import Source
from latentrt.weights.special_tokens import (
    CONFIG,
    WHOLE,
    UnsureError,
    json_object,
    read_special_tokens,
)
from latentrt.weights.tokenizer_files import TokenizerFiles, check_end, check_ids, check_lengths

_CLASSES: Final = ("CLIPTokenizer", "CLIPTokenizerFast")
_WORDS: Final = Regex(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_MOST: Final = 100_000
"""transformers changes how larger vocabularies are read."""

_UNREAD: Final = frozenset(
    {
        *("fast_tokenizer_files", "gguf_file", "init_inputs", "merges", "tokenizer_object"),
        *("model_specific_special_tokens", "post_processor", "split_special_tokens", "vocab"),
        *("tokenizer_padding", "tokenizer_truncation", "_json_padding", "_json_truncation"),
    }
)
"""Keys of a tokenizer_config.json that change how transformers reads the files."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipTokenizer:
    """A tokenizer of CLIP, with the ids of the tokens that frame and fill a prompt."""

    library: Tokenizer
    files: TokenizerFiles
    vectors: Mapping[str, tuple[str, ...]]

    def __call__(self, prompt: str) -> NDArray[np.int64]:
        """Tokens [1, length], from BOS to padding, as a diffusers pipeline gives them."""
        files = self.files
        found = self.library.encode(prompt, add_special_tokens=False)
        converted = expand(prompt, found.tokens, self.vectors) if self.vectors else prompt
        if converted != prompt:
            found = self.library.encode(converted, add_special_tokens=False)
        room, ids = files.length - 2, found.ids
        if len(ids) > room:
            ids = ids[len(ids) - room :] if files.truncation_side == "left" else ids[:room]
        assert files.pad is not None
        padding = [files.pad] * (room - len(ids))
        inner = [files.bos, *ids, files.eos]
        row = [*padding, *inner] if files.padding_side == "left" else [*inner, *padding]
        return np.array([row], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write the files that `latentrt.runtime.text` reads."""
        self.files.save(folder)


def open_clip_tokenizers(
    source: Source, family: Family, parts: Mapping[str, Part]
) -> dict[str, ClipTokenizer]:
    """The tokenizer of each text encoder, by the encoder's name.

    Raises `CheckpointError` for files that transformers may read differently. It also raises it for
    ids that the text encoder lacks, and where two tokenizers have two lengths.
    """
    tokenizers: dict[str, ClipTokenizer] = {}
    for encoder in family.text_encoders:
        name, part = tokenizer_of(encoder), parts[encoder]
        where = f"{source.name}/{name}"
        check_end(f"{source.name}/{part.folder}/config.json", part)
        with _naming(where):
            _check_class(source.index.get(name))
            files = source.tokenizer(name)
        tokenizers[encoder] = open_clip_tokenizer(where, files, part)
    check_lengths(source.name, [t.files.length for t in tokenizers.values()])
    return tokenizers


def open_clip_tokenizer(where: str, files: Mapping[str, bytes], encoder: Part) -> ClipTokenizer:
    """The tokenizer in a folder's files; raises `CheckpointError` as `open_clip_tokenizers` does.

    `where` is the folder's name in errors.
    """
    with _naming(where):
        tokenizer = _read(files, encoder.config["max_position_embeddings"])
    check_ids(where, tokenizer.library.get_vocab(), encoder)
    return tokenizer


@contextlib.contextmanager
def _naming(where: str) -> Generator[None]:
    """Name the tokenizer in whatever the library says of files that it cannot read."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, UnsureError) else f"unreadable: {error}"
        problem = f"{reason}; only CLIP's tokenizers are read without PyTorch"
        raise CheckpointError(where, f"{problem}: pip install 'latentrt[export]'") from error


def _check_class(entry: object) -> None:
    """`entry` is the tokenizer's in `model_index.json`: a library and a class."""
    if isinstance(entry, list | tuple):
        stated = cast("list[object]", entry)[-1]
        if stated not in _CLASSES:
            raise UnsureError(f"is a {stated!r}")


def _read(files: Mapping[str, bytes], most: int) -> ClipTokenizer:
    """The tokenizer in a folder's files, for a text encoder of `most` positions."""
    config = json_object(files, CONFIG)
    unread = sorted(key for key in config if key in _UNREAD)
    if unread:
        raise UnsureError(f"{CONFIG} has {unread[0]!r}")
    tokens = read_special_tokens(files)
    whole = json_object(files, WHOLE) if WHOLE in files else None
    library = _model(files, whole, tokens.unknown)
    cast("Any", library).add_tokens(list(tokens.added))
    bos, eos, pad = (library.token_to_id(token) for token in (tokens.bos, tokens.eos, tokens.pad))
    if bos is None or eos is None or pad is None:
        raise UnsureError("a special token has no id")
    padding, cutting = ("right", "right") if whole is None else _sides(whole)
    tokenizer_files = TokenizerFiles(
        model=library.to_str(),
        bos=bos,
        eos=eos,
        pad=pad,
        length=_length(config, most),
        padding_side=_side(config, "padding_side", padding),
        truncation_side=_side(config, "truncation_side", cutting),
    )
    added = {token.content for token in library.get_added_tokens_decoder().values()}
    return ClipTokenizer(library, tokenizer_files, vectors_of(added))


def _model(files: Mapping[str, bytes], whole: Mapping[str, Any] | None, unknown: str) -> Tokenizer:
    """CLIP's byte-level BPE with the vocabulary and merges of the files, no token added yet."""
    if whole is not None:
        model = cast("dict[str, Any]", whole["model"])
        if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
            raise UnsureError(f"tokenizer.json has a {model.get('type')!r} model")
        vocabulary: dict[str, int] = model["vocab"]
        stated = cast("list[str | list[str]]", model["merges"])
        merges = [
            tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in stated
        ]
    else:
        vocabulary = cast("dict[str, int]", json_object(files, "vocab.json"))
        lines = files["merges.txt"].decode().split("\n")
        lines = [line.removesuffix("\r") for line in lines[: None if lines[-1] else -1]]
        merges = [tuple(each.split(" ")) for each in lines if not each.startswith("#version")]
    if len(vocabulary) > _MOST or not vocabulary:
        raise UnsureError(f"has a vocabulary of {len(vocabulary)} tokens")
    if any(len(merge) != 2 for merge in merges):
        raise UnsureError("has a merge that is not of two tokens")
    library = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=cast("list[tuple[str, str]]", merges),
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            fuse_unk=False,
            unk_token=unknown,
        )
    )
    library.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return library


def _length(config: Mapping[str, Any], most: int) -> int:
    """Tokens of a prompt with those around it, at most the text encoder's positions."""
    stated: object = config.get("model_max_length", config.get("max_len"))
    if stated is None:
        return most
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        raise UnsureError(f"model_max_length is {stated!r}")
    length = min(int(stated), most)
    if length < 2:
        raise UnsureError(f"model_max_length is {stated!r}")
    return length


def _sides(whole: Mapping[str, Any]) -> tuple[str, str]:
    """Where a tokenizer.json fills and cuts prompts; raises what the library says of it."""
    model: dict[str, Any] = {**whole["model"], "vocab": {}, "merges": []}
    library: Any = Tokenizer.from_str(json.dumps({**whole, "model": model, "added_tokens": []}))
    padding: dict[str, str] | None = library.padding
    cutting: dict[str, str] | None = library.truncation
    return (padding or {}).get("direction", "right"), (cutting or {}).get("direction", "right")


def _side(config: Mapping[str, Any], key: str, default: str) -> str:
    stated: object = config.get(key, default)
    if stated not in ("left", "right"):
        raise UnsureError(f"{key} is {stated!r}")
    return str(stated)
