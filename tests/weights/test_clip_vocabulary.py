"""CLIP's vocabulary as it ships, against the files on the hub and open_clip's tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from latentrt.weights.clip_vocabulary import END, tokenizer_files

HUB = {
    "vocab.json": "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
    "merges.txt": "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
}
"""SHA-256 of the files in `tokenizer` of Stable Diffusion 1.5, and in `tokenizer_2` of SDXL."""

OPEN_CLIP = {
    "a photograph of an astronaut riding a horse": [320, 8853, 539, 550, 18376, 6765, 320, 4558],
    "masterpiece, best quality, 1girl, naïve café, 2½ 部屋 🙂 it's (word:1.3)": [
        *(12066, 267, 949, 3027, 267, 272, 1611, 267, 1097, 35689, 563, 15304, 267, 273, 33613),
        *(165, 225, 101, 46096, 489, 14860, 585, 568, 263, 2653, 281, 272, 269, 274, 264),
    ],
    "DON'T we'll   they've 4k trending on artstation!!": [
        *(847, 713, 649, 1342, 889, 1200, 275, 330, 6087, 525, 1486, 2631, 748),
    ],
    "Привет мир, ﬁne ÀÉÎ": [
        *(26302, 16370, 29503, 110, 22176, 141, 480, 38018, 16701, 141, 478, 267, 171, 105, 223),
        *(1422, 36149, 3459, 127, 362),
    ],
    "antidisestablishmentarianism zzyzx": [3120, 4262, 7726, 12658, 1585, 44351, 21275, 31604],
}
"""Ids of open_clip 3.3.0's `SimpleTokenizer.encode`, which ftfy leaves as they are."""


@pytest.fixture(scope="module", params=[END, "!"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in tokenizer_files(request.param).items():
        (folder / name).write_bytes(content)
    assert CLIPTokenizer.from_pretrained(folder).pad_token == request.param
    return CLIPTokenizer.from_pretrained(folder)


def test_vocabulary_and_merges_are_byte_for_byte_those_of_the_hub() -> None:
    files = tokenizer_files(END)
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in HUB} == HUB


def test_ids_are_those_of_open_clip(tokenizer: CLIPTokenizer) -> None:
    ids = {p: tokenizer(p, add_special_tokens=False).input_ids for p in OPEN_CLIP}
    expected = dict(OPEN_CLIP)
    if tokenizer.pad_token == "!":  # the library takes a special token out of "!!" by itself
        prompt = "DON'T we'll   they've 4k trending on artstation!!"
        expected[prompt] = [*expected[prompt][:-1], 0, 0]
    assert ids == expected


def test_a_prompt_begins_and_ends_with_clips_special_tokens(tokenizer: CLIPTokenizer) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49406, 49407)
    assert tokenizer.pad_token_id == (0 if tokenizer.pad_token == "!" else 49407)
    assert tokenizer.model_max_length == 77
    assert tokenizer("").input_ids == [49406, 49407]


def test_the_compressed_vocabulary_takes_less_than_160_kilobytes() -> None:
    path = Path(tokenizer_files.__code__.co_filename).with_name("clip_merges.xz")
    assert path.stat().st_size < 160_000
