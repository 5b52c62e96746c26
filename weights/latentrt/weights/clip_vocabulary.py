"""CLIP's vocabulary, which checkpoints in one file lack, as the files of a tokenizer's folder.

The vocabulary is OpenAI's for CLIP, `bpe_simple_vocab_16e6.txt`, as open_clip ships it. Both are
under the MIT licence; LICENSES/CLIP.txt has it. `clip_merges.xz` holds its merges: four rows of one
byte a merge, which are the low and high bytes of the left token's id, then those of the right's.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Final

import numpy as np

BEGIN: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
WORD_END: Final = "</w>"
"""The end of a token that ends a word."""

LENGTH: Final = 77
"""Tokens of a prompt with those around it; CLIP has as many positions."""

_MERGES: Final = Path(__file__).with_name("clip_merges.xz")
_PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def tokenizer_files(pad_token: str) -> dict[str, bytes]:
    """The files of a CLIP tokenizer, by name, as a diffusers folder has them.

    `pad_token` is what fills a prompt: `END` for CLIP ViT-L, "!" for OpenCLIP ViT-H and bigG.
    `vocab.json` and `merges.txt` are those of Stable Diffusion's repositories, byte for byte.
    """
    merges = _merges()
    vocabulary = [*_characters(), *("".join(merge) for merge in merges), BEGIN, END]
    ids = {token: id_ for id_, token in enumerate(vocabulary)}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": _token(BEGIN),
        "eos_token": _token(END),
        "unk_token": _token(END),
        "pad_token": pad_token,
        "model_max_length": LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    return {
        "vocab.json": _json(ids, sort=True),
        "merges.txt": "\n".join(lines).encode(),
        "tokenizer_config.json": _json(config, sort=False),
    }


def _merges() -> list[tuple[str, str]]:
    """The pairs of tokens that become one, the most frequent first: each makes the next token."""
    rows = np.frombuffer(lzma.decompress(_MERGES.read_bytes()), np.uint8)
    low_left, high_left, low_right, high_right = rows.reshape(4, -1).astype(np.uint16)
    tokens = _characters()
    merges: list[tuple[str, str]] = []
    lefts: list[int] = (low_left | high_left << 8).tolist()
    rights: list[int] = (low_right | high_right << 8).tolist()
    for left, right in zip(lefts, rights, strict=True):
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return merges


def _characters() -> list[str]:
    """The first tokens: every byte, within a word and at its end.

    A byte is a printable character, its own where that is one. Source: GPT-2's `bytes_to_unicode`.
    """
    others = 256 - len(_PRINTABLE)
    bytes_ = [*map(chr, _PRINTABLE), *(chr(0x100 + i) for i in range(others))]
    return bytes_ + [byte + WORD_END for byte in bytes_]


def _token(content: str) -> dict[str, object]:
    """A special token in `tokenizer_config.json`, which is matched in the lower-cased prompt."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {"__type": "AddedToken", "content": content, **flags}


def _json(value: object, *, sort: bool) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=sort)
    return f"{text}\n".encode()
