"""Tokens and hidden states against transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextModel, CLIPTokenizer

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import Difference
from latentrt.runtime import Guidance, Pipeline, Request, Sampling
from latentrt.runtime.text import PromptTokenizer, TextEncoder

LENGTH = 77


@pytest.fixture(scope="module")
def tokenizers(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> tuple[PromptTokenizer, CLIPTokenizer]:
    ours = PromptTokenizer(Bundle.open(bundle("heads")))
    return ours, CLIPTokenizer.from_pretrained(checkpoint("heads") / "tokenizer")


def reference_ids(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    return tokenizer(prompt, padding="max_length", max_length=LENGTH, truncation=True).input_ids


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "a large red circle on a blue background",
        "A LARGE   Red\tcircle\n",
        "naïve café, 2½ 部屋 🙂 it's (word:1.3) <|endoftext|> more",
        "red " * 75,
        "red " * 76,
        "zebra " * 200,
    ],
)
def test_tokens_are_those_of_transformers(
    tokenizers: tuple[PromptTokenizer, CLIPTokenizer], prompt: str
) -> None:
    ours, theirs = tokenizers
    assert ours(prompt).ids.tolist() == reference_ids(theirs, prompt)


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_tokens_of_any_text_are_those_of_transformers(
    tokenizers: tuple[PromptTokenizer, CLIPTokenizer], prompt: str
) -> None:
    ours, theirs = tokenizers
    tokens = ours(prompt)
    assert tokens.ids.tolist() == reference_ids(theirs, prompt)
    assert prompt.endswith(tokens.cut)


def test_padding_is_the_tokenizers_own_and_the_end_is_marked_before_it(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    # OpenCLIP's tokenizers pad with "!", CLIP's own with the end token.
    opened = Bundle.open(bundle("heads"))
    theirs = CLIPTokenizer.from_pretrained(checkpoint("heads") / "tokenizer", pad_token="!")
    shutil.copytree(opened.path / "tokenizer", tmp_path / "tokenizer")
    special = tmp_path / "tokenizer" / "special_tokens.json"
    special.write_text(
        json.dumps({**json.loads(special.read_text()), "pad_token_id": theirs.pad_token_id})
    )
    ours = PromptTokenizer(replace(opened, path=tmp_path))
    assert theirs.pad_token_id != theirs.eos_token_id
    for prompt in ("", "a red circle", "red " * 80):
        assert ours(prompt).ids.tolist() == reference_ids(theirs, prompt)


def test_what_was_cut_is_the_end_of_the_prompt(
    tokenizers: tuple[PromptTokenizer, CLIPTokenizer],
) -> None:
    ours, _ = tokenizers
    assert ours("red " * 75).cut == ""
    assert ours("red " * 75 + "Green circle").cut == "Green circle"


def test_ten_thousand_words_work_and_the_result_says_what_was_cut(
    bundle: Callable[[str], Path],
) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        sampling = Sampling("euler", steps=1)
        result = pipeline(Request("red circle " * 5000, seed=0, sampling=sampling))
        first = pipeline(Request("red circle " * 37 + "red", seed=0, sampling=sampling))
    assert len(result.notes) == 1
    assert "prompt: cut after 75 tokens; left out: 'circle red circle" in result.notes[0]
    assert len(result.notes[0]) < 200
    assert np.array_equal(result.latents, first.latents)
    assert first.notes == ()


@pytest.mark.parametrize("clip_skip", [0, 1])
@pytest.mark.parametrize("configuration", ["heads", "lists"])
def test_hidden_states_are_those_of_transformers(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    configuration: str,
    clip_skip: int,
) -> None:
    model = CLIPTextModel.from_pretrained(checkpoint(configuration) / "text_encoder").eval()
    opened = Bundle.open(bundle(configuration))
    ids = PromptTokenizer(opened)("a small green star").ids
    with torch.inference_mode():
        output = model(torch.from_numpy(ids[None]), output_hidden_states=True)
        expected = model.final_layer_norm(output.hidden_states[-1 - clip_skip]).numpy()
    with Pipeline.open(bundle(configuration), engine="onnxruntime") as pipeline:
        engine = pipeline.engine("text_encoder", {"batch": 1, "sequence": LENGTH})
        actual = TextEncoder(opened)(ids, engine, clip_skip)
    # Two LayerNorms and two layers of fp32 rounding; 2e-7 measured.
    assert Difference.between(actual, expected).relative < 5e-6


def test_clip_skip_of_every_layer_is_refused(bundle: Callable[[str], Path]) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        request = Request("a", clip_skip=2, guidance=Guidance(1))
        with pytest.raises(InputError, match="clip_skip: expected less than the text encoder's 2"):
            pipeline(request)
