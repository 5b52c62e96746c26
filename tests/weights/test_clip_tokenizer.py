"""CLIP's tokenizer without transformers gives the ids that transformers gives."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from diffusers.loaders import TextualInversionLoaderMixin
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from tests.conftest import ROOT, read_json
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from latentrt.bundle.errors import CheckpointError
from latentrt.runtime.text import PromptTokenizer
from latentrt.weights.clip_tokenizer import ClipTokenizer, open_clip_tokenizers
from latentrt.weights.clip_vocabulary import END, tokenizer_files
from latentrt.weights.families import FAMILIES
from latentrt.weights.parts import Part
from latentrt.weights.source import Source, TensorSource

SHIPPED = ROOT / "models" / "shapes" / "tokenizer"
SMALL = {name: (SHIPPED / name).read_bytes() for name in ("vocab.json", "merges.txt")}
SIZE = len(read_json(SHIPPED / "vocab.json"))
CONFIG = read_json(SHIPPED / "tokenizer_config.json")

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Folder:
    """A checkpoint of which there is nothing but a tokenizer's files."""

    files: Files
    index: Mapping[str, Any]
    name: str = "it"

    def tokenizer(self, folder: str) -> dict[str, bytes]:
        assert folder == "tokenizer"
        return dict(self.files)


def ours(files: Files, entry: object = ("transformers", "CLIPTokenizer")) -> ClipTokenizer:
    source = cast("Source", Folder(files, {"tokenizer": entry}))
    stated = {"vocab_size": 50_000, "max_position_embeddings": 77, "eos_token_id": 2}
    part = Part("text_encoder", stated, cast("TensorSource", {}), ())
    return open_clip_tokenizers(source, FAMILIES[0], {"text_encoder": part})["text_encoder"]


def library(files: Files) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return CLIPTokenizer.from_pretrained(folder)


def theirs(tokenizer: Any, prompt: str, length: int) -> list[int]:
    """What a diffusers pipeline makes of a prompt."""
    converted = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
    found = tokenizer(converted, padding="max_length", truncation=True, max_length=length)
    return found.input_ids


NAMES = st.sampled_from(["<|startoftext|>", END, "!", "<pad>", "<Pad>"])
ADDED = st.sampled_from(["<x>", "<x>_1", "bad-hands", "<Pad>", END, "!"])
FLAGS = st.fixed_dictionaries(
    {},
    optional={f: st.booleans() for f in ("lstrip", "rstrip", "normalized", "single_word")},
)


def token(names: st.SearchStrategy[str], **marks: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda name, flags: {"content": name, **flags, **marks}, names, FLAGS)


SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        **{k: NAMES | token(NAMES, __type="AddedToken") for k in SPECIAL},
        "model_max_length": st.sampled_from([77, 20, 3, 2, 1e30, None]),
        "max_len": st.just(30),
        "padding_side": st.sampled_from(["left", "right"]),
        "truncation_side": st.sampled_from(["left", "right"]),
        "do_lower_case": st.booleans(),
        "add_bos_token": st.booleans(),
        "add_prefix_space": st.booleans(),
        "clean_up_tokenization_spaces": st.booleans(),
        "added_tokens_decoder": st.dictionaries(
            st.integers(0, SIZE + 9).map(str), token(ADDED, special=True) | token(ADDED), max_size=4
        ),
    },
)
MAPS = st.none() | st.fixed_dictionaries({}, optional={k: NAMES | token(NAMES) for k in SPECIAL})
LEGACY = st.none() | st.dictionaries(ADDED, st.integers(0, SIZE + 9), max_size=4)


@st.composite
def whole(draw: st.DrawFn) -> bytes:
    """A tokenizer.json with added tokens, padding and truncation."""
    made: Any = Tokenizer.from_str(ours({**SMALL, "tokenizer_config.json": b"{}"}).files.model)
    made.add_tokens(draw(st.lists(ADDED, max_size=3)))
    if draw(st.booleans()):
        made.enable_padding(length=77, direction=draw(st.sampled_from(["left", "right"])))
    if draw(st.booleans()):
        made.enable_truncation(77, direction=draw(st.sampled_from(["left", "right"])))
    return made.to_str().encode()


@st.composite
def folders(draw: st.DrawFn) -> Files:
    """A CLIP tokenizer's files in any combination."""
    files = dict(SMALL)
    config = draw(st.none() | CONFIGS | CONFIGS.map(lambda c: {**CONFIG, **c}))
    for name, value in (
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", draw(MAPS)),
        ("added_tokens.json", draw(LEGACY)),
    ):
        if value is not None:
            files[name] = json.dumps(value).encode()
    if draw(st.booleans()):
        files["tokenizer.json"] = draw(whole())
        if draw(st.booleans()):
            del files["vocab.json"], files["merges.txt"]
    return files


PIECES = st.sampled_from(
    [
        *("<x>", "<x>_1", "<X>", "<Cat>", "bad-hands", "red", "A large RED circle", "!", "!!"),
        *(
            "<PAD>",
            "<Pad>",
            " <|EndOfText|> ",
            "it's",
            " ",
            END,
            "naïve",
            "e\u0301",
            "½ 部屋 🙂",
            "\x85\t",
            "wait " * 20,
        ),
    ]
)
PROMPTS = st.lists(PIECES | st.text(max_size=9), max_size=12).map("".join)


NAMED_TWICE = {
    "bos_token": "<pad>",
    "unk_token": {"content": "<pad>", "normalized": True},
    "pad_token": "<pad>",
}


@example({**SMALL, "special_tokens_map.json": json.dumps(NAMED_TWICE).encode()}, ["<PAD>"])
@given(folders(), st.lists(PROMPTS, min_size=2, max_size=4))
@settings(max_examples=150, deadline=None)
def test_ids_are_those_of_transformers_whatever_the_files_state(
    files: Files, prompts: list[str]
) -> None:
    try:
        tokenizer = ours(files)
    except CheckpointError as error:
        event(f"refused: {error.problem.split(';')[0][:40]}")
        return
    event("read")
    reference = library(files)
    length = tokenizer.files.length
    assert length == min(int(reference.model_max_length), 77)
    for prompt in ("", *prompts):
        assert tokenizer(prompt).tolist() == [theirs(reference, prompt, length)]


PAD = {"content": "<Pad>"}
FLAGGED: dict[str, dict[str, Any]] = {
    "a token of the config that is an old added token": {
        "tokenizer_config.json": {**CONFIG, "pad_token": {**PAD, "__type": "AddedToken"}},
        "added_tokens.json": {"<Pad>": SIZE},
    },
    "a token of the map that is an old added token": {
        "special_tokens_map.json": {"pad_token": PAD},
        "added_tokens.json": {"<Pad>": SIZE},
    },
    "a token of the map": {"special_tokens_map.json": {"pad_token": PAD}},
    "an added token that is special by its name": {
        "tokenizer_config.json": {
            **CONFIG,
            "pad_token": "<Pad>",
            "added_tokens_decoder": {str(SIZE): PAD},
        },
    },
    "an older name of the length": {"tokenizer_config.json": {"max_len": 9}},
}


@pytest.mark.parametrize("stated", FLAGGED.values(), ids=FLAGGED)
def test_special_tokens_keep_the_flags_that_transformers_gives_them(
    stated: dict[str, Any],
) -> None:
    files = {**SMALL, **{name: json.dumps(value).encode() for name, value in stated.items()}}
    tokenizer, reference = ours(files), library(files)
    for prompt in ("a <PAD> red", "a <Pad> red", "a <pad>"):
        expected = theirs(reference, prompt, tokenizer.files.length)
        assert tokenizer(prompt).tolist() == [expected]
    assert tokenizer.files.length == min(reference.model_max_length, 77)


@pytest.mark.parametrize("pad_token", [END, "!"])
def test_the_vocabulary_that_ships_gives_the_same_ids_here_and_in_the_runtime(
    pad_token: str, tmp_path: Path
) -> None:
    files = tokenizer_files(pad_token)
    tokenizer, reference = ours(files), library(files)
    tokenizer.save(tmp_path / "saved")
    runtime = PromptTokenizer(tmp_path / "saved")
    for prompt in (
        "",
        "A photo of an astronaut, riding a horse!!",
        "½ 部屋 🙂 it's",
        "wait! " * 60,
    ):
        expected = theirs(reference, prompt, 77)
        assert tokenizer(prompt).tolist() == [expected]
        assert runtime(prompt).ids.tolist() == expected


def state(**changes: Any) -> dict[str, bytes]:
    return {**SMALL, "tokenizer_config.json": json.dumps({**CONFIG, **changes}).encode()}


REFUSED: dict[str, tuple[Files, str]] = {
    "no end token": (state(eos_token=None), "eos_token is None"),
    "a special token without its mark": (state(pad_token={"content": "!"}), "pad_token is {"),
    "a mask token": (state(mask_token="<mask>"), "tokenizer_config.json has 'mask_token'"),
    "further special tokens": (
        state(additional_special_tokens=["<x>"]),
        "tokenizer_config.json has 'additional_special_tokens'",
    ),
    "files for versions": (
        state(fast_tokenizer_files=["tokenizer.4.0.0.json"]),
        "tokenizer_config.json has 'fast_tokenizer_files'",
    ),
    "split special tokens": (state(split_special_tokens=True), "has 'split_special_tokens'"),
    "a length of one": (state(model_max_length=1), "model_max_length is 1"),
    "a length in words": (state(model_max_length="long"), "model_max_length is 'long'"),
    "a side in the middle": (state(padding_side="middle"), "padding_side is 'middle'"),
    "a flag that is unknown": (
        state(added_tokens_decoder={"0": {"content": "!", "bold": True}}),
        "an added token is {'content': '!', 'bold': True}",
    ),
    "added tokens that are a list": (state(added_tokens_decoder=[]), "added_tokens_decoder is not"),
    "an id in words": ({**state(), "added_tokens.json": b'{"<x>": "1"}'}, "has the id '1'"),
    "a list": ({**state(), "added_tokens.json": b"[]"}, "added_tokens.json is not a JSON object"),
    "another model": (
        {**state(), "tokenizer.json": b'{"model": {"type": "WordPiece"}, "added_tokens": []}'},
        "tokenizer.json has a 'WordPiece' model",
    ),
    "no vocabulary": ({**state(), "vocab.json": b"{}"}, "has a vocabulary of 0 tokens"),
    "a merge of three": (
        {**state(), "merges.txt": b"#version: 0.2\na b c\n"},
        "has a merge that is not of two tokens",
    ),
    "a merge of strangers": ({**state(), "merges.txt": b"\xd0\xb6\xd0\xb6 x\n"}, "unreadable: "),
    "half a file": ({**state(), "tokenizer.json": b'{"version":'}, "unreadable: "),
    "Latin-1": ({**state(), "vocab.json": b'{"caf\xe9": 0}'}, "unreadable: "),
}


@pytest.mark.parametrize(("files", "reason"), REFUSED.values(), ids=REFUSED)
def test_files_that_transformers_may_read_differently_are_refused(
    files: Files, reason: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        ours(files)
    assert reason in caught.value.problem
    assert caught.value.problem.endswith(
        "; only CLIP's tokenizers are read without PyTorch: pip install 'latentrt[export]'"
    )


@pytest.mark.parametrize("kind", ["AutoTokenizer", "PreTrainedTokenizerFast", "T5Tokenizer"])
def test_a_class_that_is_not_clips_is_refused(kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"it/tokenizer: is a '{kind}'; only CLIP's"):
        ours(state(), ["transformers", kind])


@pytest.mark.parametrize("entry", [None, ["transformers", "CLIPTokenizerFast"]])
def test_a_clip_tokenizer_of_another_name_is_read(entry: object) -> None:
    assert ours(state(), entry)("red").shape == (1, 77)
