"""Tokenizers of a checkpoint, in whatever files they come, against transformers' own loader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from diffusers.loaders import TextualInversionLoaderMixin
from tests.conftest import ROOT, read_json
from transformers import CLIPTokenizer

from latentrt.bundle.errors import CheckpointError
from latentrt.export.tokenizer import open_tokenizers
from latentrt.runtime.text import PromptTokenizer
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.clip_tokenizer import open_clip_tokenizers
from latentrt.weights.families import FAMILIES
from latentrt.weights.parts import Part
from latentrt.weights.source import TensorSource

Change = Callable[[Path], object]
Places = Callable[[Change], Path]

SHIPPED = ROOT / "models" / "shapes" / "tokenizer"
SIZE = 626
"""Tokens of the tokenizer that ships; an added one has this id."""

PROMPTS = (
    "",
    "a red circle",
    "a <cat-toy> beside <Cat>",
    "a<cat-toy>,  <cat-toy> !",
    "a <cat-toy>_1 and <x>, <x>",
    "<x> <x>_1 <y>",
    "wait! " * 60 + "<cat-toy>",
)


@pytest.fixture
def place(tmp_path: Path) -> Places:
    """Makes a checkpoint of which there is but its index and a changed tokenizer."""

    def make(change: Change) -> Path:
        folder = tmp_path / "it"
        shutil.copytree(SHIPPED, folder / "tokenizer")
        index = {"_class_name": "StableDiffusionPipeline"}
        (folder / "model_index.json").write_text(json.dumps(index))
        change(folder / "tokenizer")
        return folder

    return make


def parts(rows: int = SIZE + 10, **config: Any) -> dict[str, Part]:
    """A text encoder with a table of `rows`."""
    stated = {"vocab_size": rows, "max_position_embeddings": 77, "eos_token_id": 625, **config}
    return {"text_encoder": Part("text_encoder", stated, cast("TensorSource", {}), ())}


def opened(folder: Path, rows: int = SIZE + 10, **config: Any) -> PromptTokenizer:
    """The tokenizer as a bundle has it, read with transformers."""
    encoder = parts(rows, **config)
    found = open_tokenizers(Checkpoint.open(folder), FAMILIES[0], encoder, folder.parent)
    found["text_encoder"].save(folder.parent / "saved")
    return PromptTokenizer(folder.parent / "saved")


def theirs(folder: Path, prompt: str, length: int = 77) -> list[int]:
    """What a diffusers pipeline makes of a prompt, from the checkpoint's own files."""
    library = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    converted = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, library)
    found = library(converted, padding="max_length", truncation=True, max_length=length)
    return found.input_ids


def config(**changes: Any) -> Change:
    """Other fields of tokenizer_config.json."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**read_json(path), **changes}))

    return change


def file(name: str, content: Any) -> Change:
    """Another file, as JSON unless it is bytes."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda folder: (folder / name).write_bytes(data)


def both(*changes: Change) -> Change:
    """Several changes."""
    return lambda folder: [change(folder) for change in changes]


def whole(*added: str) -> Change:
    """A tokenizer.json with these added tokens, beside the other files."""

    def change(folder: Path) -> None:
        library = CLIPTokenizer.from_pretrained(SHIPPED)
        library.add_tokens(list(added))
        (folder / "tokenizer.json").write_text(library.backend_tokenizer.to_str())

    return change


def saved(*added: str) -> Change:
    """What transformers writes of a tokenizer with these added tokens."""

    def change(folder: Path) -> None:
        library = CLIPTokenizer.from_pretrained(SHIPPED)
        library.add_tokens(list(added))
        shutil.rmtree(folder)
        library.save_pretrained(folder)

    return change


def versioned(folder: Path) -> None:
    """A tokenizer.json for some versions of transformers only."""
    whole("<cat-toy>")(folder)
    (folder / "tokenizer.json").rename(folder / "tokenizer.4.0.0.json")
    config(fast_tokenizer_files=["tokenizer.4.0.0.json"])(folder)


def crlf(folder: Path) -> None:
    """Lines as Windows ends them."""
    merges = folder / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))


PAD = {"content": "!", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}

READ: dict[str, Change] = {
    "added_tokens.json": file("added_tokens.json", {"<cat-toy>": SIZE}),
    "an added token with capitals": file("added_tokens.json", {"<Cat>": SIZE}),
    "added tokens with a gap": file("added_tokens.json", {"<cat-toy>": SIZE + 5, "<Cat>": SIZE}),
    "a special token with flags": both(
        file("special_tokens_map.json", {"pad_token": PAD}),
        file("added_tokens.json", {"<cat-toy>": SIZE}),
    ),
    "tokenizer.json": whole("<cat-toy>", "<Cat>"),
    "tokenizer.json and added_tokens.json that disagree": both(
        whole("<cat-toy>", "<Cat>"),
        file("added_tokens.json", {"<cat-toy>": SIZE + 1, "<Cat>": SIZE}),
    ),
    "tokenizer.json for a version": versioned,
    "no tokenizer_config.json": both(
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        file("added_tokens.json", {"<cat-toy>": SIZE}),
    ),
    "a pad token that is added": config(pad_token="<pad>"),
    "padding and cutting at the left": config(padding_side="left", truncation_side="left"),
    "case kept in name only": config(do_lower_case=False),
    "a huge length": config(model_max_length=1e30),
    "lines of Windows": crlf,
    "several vectors": saved("<x>", "<x>_1", "<x>_2", "<y>", "<cat-toy>", "<cat-toy>_1"),
    "several vectors, with capitals": saved("<Cat>", "<Cat>_1"),
    "vectors with a gap": saved("<x>", "<x>_2"),
}


WITHOUT_TRANSFORMERS = [name for name in READ if name != "tokenizer.json for a version"]


@pytest.mark.parametrize("name", WITHOUT_TRANSFORMERS)
def test_tokens_without_transformers_are_those_of_its_loader(place: Places, name: str) -> None:
    folder = place(READ[name])
    ours = open_clip_tokenizers(Checkpoint.open(folder), FAMILIES[0], parts())["text_encoder"]
    found = {prompt: ours(prompt)[0].tolist() for prompt in PROMPTS}
    assert found == {prompt: theirs(folder, prompt) for prompt in PROMPTS}


@pytest.mark.parametrize("change", READ.values(), ids=READ)
def test_tokens_are_those_of_the_tokenizers_own_loader(place: Places, change: Change) -> None:
    folder = place(change)
    ours = opened(folder)
    assert ours.length == 77
    found = {prompt: ours(prompt).ids.tolist() for prompt in PROMPTS}
    assert found == {prompt: theirs(folder, prompt) for prompt in PROMPTS}


def test_an_added_token_has_one_id(place: Places) -> None:
    ours = opened(place(file("added_tokens.json", {"<cat-toy>": SIZE})))
    assert ours("<cat-toy>").ids[:3].tolist() == [624, SIZE, 625]


def test_a_textual_inversion_of_three_vectors_has_three_ids(place: Places) -> None:
    ours = opened(place(saved("<x>", "<x>_1", "<x>_2")))
    assert ours("<x>").ids[:5].tolist() == [624, SIZE, SIZE + 1, SIZE + 2, 625]


def test_left_truncation_cuts_the_begin_of_the_prompt(place: Places) -> None:
    ours = opened(place(config(truncation_side="left")))
    assert ours("Green circle " + "red " * 75).cut == "Green circle"


def test_a_shorter_tokenizer_gives_fewer_tokens(place: Places) -> None:
    folder = place(config(model_max_length=20))
    ours = opened(folder)
    assert [ours(p).ids.tolist() for p in PROMPTS] == [theirs(folder, p, 20) for p in PROMPTS]


@pytest.mark.parametrize(
    "kind", ["CLIPTokenizer", "CLIPTokenizerFast", "AutoTokenizer", "PreTrainedTokenizerFast"]
)
def test_the_class_that_the_index_names_reads_the_files(place: Places, kind: str) -> None:
    folder = place(saved("<cat-toy>"))
    index = read_json(folder / "model_index.json") | {"tokenizer": ["transformers", kind]}
    (folder / "model_index.json").write_text(json.dumps(index))
    ours = opened(folder)
    assert [ours(p).ids.tolist() for p in PROMPTS] == [theirs(folder, p) for p in PROMPTS]


def test_a_class_that_is_no_tokenizer_is_refused(place: Places) -> None:
    folder = place(lambda _: None)
    index = {"_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "CLIPModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="tokenizer is 'CLIPModel', expected a tokenizer"):
        opened(folder)


REFUSED: dict[str, tuple[Change, str]] = {
    "no end token": (config(eos_token=None), "unreadable: "),
    "no begin token": (config(bos_token=None), "unreadable: "),
    "no padding": (config(pad_token=None), "cannot tokenize a prompt: .*padding"),
    "a length of one": (config(model_max_length=1), "cannot "),
    "a length in words": (config(model_max_length="long"), "unreadable: "),
    "an empty vocabulary": (file("vocab.json", {}), "unreadable: "),
    "a vocabulary with one id twice": (
        lambda folder: file("vocab.json", {**read_json(folder / "vocab.json"), "red</w>": 5})(
            folder
        ),
        "two tokens have the id 5",
    ),
    "a vocabulary in Latin-1": (file("vocab.json", b'{"caf\xe9": 0}'), "unreadable: "),
    "merges with a mark of their encoding": (
        lambda folder: (folder / "merges.txt").write_bytes(
            b"\xef\xbb\xbf" + (folder / "merges.txt").read_bytes()
        ),
        "unreadable: ",
    ),
    "half a tokenizer.json": (file("tokenizer.json", b'{"version":'), "unreadable: "),
    "a tokenizer.json that is a list": (file("tokenizer.json", []), "unreadable: "),
    "added tokens that are a list": (file("added_tokens.json", ["<x>"]), "unreadable: "),
    "an added token of half a character": (
        file("added_tokens.json", b'{"\\ud83d": 626}'),
        "unreadable: ",
    ),
}


@pytest.mark.parametrize(("change", "problem"), REFUSED.values(), ids=REFUSED)
def test_a_tokenizer_that_cannot_be_used_is_refused(
    place: Places, change: Change, problem: str
) -> None:
    with pytest.raises(CheckpointError, match=f"^it/tokenizer: {problem}"):
        opened(place(change))


def test_a_token_beyond_the_text_encoders_table_is_refused_with_both_numbers(
    place: Places,
) -> None:
    folder = place(file("added_tokens.json", {"<cat-toy>": SIZE}))
    problem = f"token '<cat-toy>' has id {SIZE}, but the table of text_encoder has {SIZE} rows"
    with pytest.raises(CheckpointError, match=f"^it/tokenizer: {problem}"):
        opened(folder, SIZE)


def test_a_padding_token_beyond_the_table_is_refused(place: Places) -> None:
    with pytest.raises(CheckpointError, match=f"token '<pad>' has id {SIZE}"):
        opened(place(config(pad_token="<pad>")), SIZE)


def test_a_table_of_more_rows_than_the_tokenizer_has_tokens_is_fine(place: Places) -> None:
    opened(place(lambda _: None), 49408)


@pytest.mark.parametrize("end", [None, [625]])
def test_an_end_of_text_that_transformers_cannot_pool_by_is_refused(
    place: Places, end: object
) -> None:
    with pytest.raises(CheckpointError, match=r"^it/text_encoder/config.json: eos_token_id is"):
        opened(place(lambda _: None), eos_token_id=end)


def test_ids_of_the_config_that_no_library_reads_do_not_matter(place: Places) -> None:
    opened(place(lambda _: None), pad_token_id=5000, bos_token_id=None, eos_token_id=7)
