"""Tokens, hidden states and pooled states against transformers."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import answered, text_models
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, InputError, NonFinite
from latentrt.bundle.golden import Difference, psnr
from latentrt.export.export import export
from latentrt.runtime import Pipeline, Request, Sampling, Size
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.text import PromptTokenizer, TextEncoder, TextStates

LENGTH = 77
# A few layers of fp32 rounding; 2e-7 to 4e-7 measured.
ROUNDING = 5e-6

Tokenizers = tuple[PromptTokenizer, CLIPTokenizer]


@pytest.fixture(
    scope="module",
    params=[("heads", "tokenizer"), ("lists", "tokenizer"), ("xl", "tokenizer_2")],
    ids=["heads", "lists", "xl"],
)
def tokenizers(
    request: pytest.FixtureRequest,
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
) -> Tokenizers:
    """Ours and the library's: one that pads with its end token, two that pad with "!"."""
    configuration, folder = request.param
    ours = PromptTokenizer.of(Bundle.open(bundle(configuration)), folder)
    return ours, CLIPTokenizer.from_pretrained(checkpoint(configuration) / folder)


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
        "wait! red!! ! !!!",
        "red " * 75,
        "red " * 76,
        "zebra " * 200,
    ],
)
def test_tokens_are_those_of_transformers(tokenizers: Tokenizers, prompt: str) -> None:
    ours, theirs = tokenizers
    assert ours(prompt).ids.tolist() == reference_ids(theirs, prompt)


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_tokens_of_any_text_are_those_of_transformers(tokenizers: Tokenizers, prompt: str) -> None:
    ours, theirs = tokenizers
    tokens = ours(prompt)
    assert tokens.ids.tolist() == reference_ids(theirs, prompt)
    assert prompt.endswith(tokens.cut)


def test_padding_is_the_tokenizers_own_and_the_end_is_marked_before_it(
    tokenizers: Tokenizers,
) -> None:
    ours, theirs = tokenizers
    ids = ours("a red circle").ids.tolist()
    end = ids.index(theirs.eos_token_id)
    assert 1 < end < LENGTH - 1
    assert ids[end + 1 :] == [theirs.pad_token_id] * (LENGTH - end - 1)


def test_right_truncation_cuts_the_end_of_the_prompt(tokenizers: Tokenizers) -> None:
    ours, _ = tokenizers
    assert ours("red " * 75).cut == ""
    assert ours("red " * 75 + "Green circle").cut == "Green circle"


def test_ten_thousand_words_work_and_the_result_says_what_was_cut(
    bundle: Callable[[str], Path],
) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        sampling = Sampling("euler", steps=1)
        request = Request("red circle " * 5000, seed=0, sampling=sampling, syntax="plain")
        result = pipeline(request)
        first = pipeline(Request("red circle " * 37 + "red", seed=0, sampling=sampling))
    assert len(result.notes) == 1
    assert "prompt: cut after 75 tokens; left out: 'circle red circle" in result.notes[0]
    assert len(result.notes[0]) < 200
    assert np.array_equal(result.latents, first.latents)
    assert first.notes == ()


@pytest.mark.parametrize("damage", ["{}", "[", '{"bos_token_id": "x"}'])
def test_a_malformed_tokenizer_is_named(
    bundle: Callable[[str], Path], tmp_path: Path, damage: str
) -> None:
    opened = Bundle.open(bundle("xl"))
    shutil.copytree(opened.path / "tokenizer_2", tmp_path / "tokenizer_2")
    (tmp_path / "tokenizer_2" / "special_tokens.json").write_text(damage)
    with pytest.raises(BundleError, match="tokenizer_2: is malformed"):
        PromptTokenizer.of(replace(opened, path=tmp_path), "tokenizer_2")


# Hidden states.


def library_model(checkpoint: Path, component: str, **config: Any) -> Any:
    kinds: dict[str, Any] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    return kinds[component].from_pretrained(checkpoint / component, **config).eval()


STATES = [
    ("heads", "text_encoder", (0, 1)),
    ("lists", "text_encoder", (0, 1, 3)),
    ("xl", "text_encoder", (0, 1, 3)),
    ("xl", "text_encoder_2", (0, 1, 4)),
]


@pytest.mark.parametrize(("configuration", "component", "skips"), STATES)
def test_hidden_states_are_those_of_transformers(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    configuration: str,
    component: str,
    skips: tuple[int, ...],
) -> None:
    model = library_model(checkpoint(configuration), component)
    opened = Bundle.open(bundle(configuration))
    folder = component.replace("text_encoder", "tokenizer")
    ids = PromptTokenizer.of(opened, folder)("a small green star").ids
    encoder = TextEncoder(opened, text_models(opened)(component))
    states = answered(encoder(ids))
    with torch.inference_mode():
        output = model(torch.from_numpy(ids[None]), output_hidden_states=True)
        for skipped in skips:
            plain = output.hidden_states[-1 - skipped]
            actual = encoder.plain(states, skipped)
            assert actual.dtype == np.float32
            assert Difference.between(actual, plain[0].numpy()).relative < ROUNDING
            if component == "text_encoder":  # the other's are never taken after the norm
                normalised = model.final_layer_norm(plain)[0].numpy()
                actual = encoder.normalised(states, skipped)
                assert Difference.between(actual, normalised).relative < ROUNDING


# Pooling.


def pooled(
    bundle: Path, checkpoint: Path, ids: list[int], **config: Any
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What our encoder and transformers' make of the same tokens; `config` is changed for both."""
    opened = Bundle.open(bundle)
    record = opened.manifest.components["text_encoder_2"]
    changed = replace(record, config={**record.config, **config})
    manifest = replace(
        opened.manifest,
        components={**opened.manifest.components, "text_encoder_2": changed},
    )
    tokens = np.array(ids, np.int64)
    model = text_models(opened)("text_encoder_2")
    encoder = TextEncoder(replace(opened, manifest=manifest), model)
    actual = encoder.pooled(answered(encoder(tokens)))
    theirs = library_model(checkpoint, "text_encoder_2", **config)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(tokens[None])).text_embeds[0].numpy()
    return actual, expected


@pytest.mark.parametrize("end", [5, 40, 76])
@pytest.mark.parametrize("rule", ["largest", "first"])
def test_the_pooled_state_is_that_of_transformers_by_either_rule(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], rule: str, end: int
) -> None:
    # An id that is the end by one rule only: 300 is the largest, 7 what the config calls the end.
    ids = [20] * LENGTH
    ids[end] = 300 if rule == "largest" else 7
    ids[2] = 200 if rule == "largest" else 300
    config = {"eos_token_id": 2 if rule == "largest" else 7}
    actual, expected = pooled(bundle("xl"), checkpoint("xl"), ids, **config)
    assert actual.shape == (24,)
    assert actual.dtype == np.float32
    assert Difference.between(actual, expected).relative < ROUNDING


def test_the_first_of_several_end_tokens_is_the_end(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    # CLIP's own tokenizer pads with its end token.
    ids = [20] * 10 + [301] * 67
    for config in ({"eos_token_id": 2}, {"eos_token_id": 301}):
        actual, expected = pooled(bundle("xl"), checkpoint("xl"), ids, **config)
        assert Difference.between(actual, expected).relative < ROUNDING


def states_of(value: float, dtype: type[np.floating[Any]]) -> TextStates:
    """Outputs of one value each, as an engine might return them."""
    names = ("last_hidden_state", "hidden_states.3", "hidden_states.4")
    outputs = {name: np.full((LENGTH, 40), value, dtype) for name in names}
    return TextStates(np.zeros(LENGTH, np.int64), outputs)


def test_states_in_16_bits_are_given_in_32(bundle: Callable[[str], Path]) -> None:
    opened = Bundle.open(bundle("xl"))
    encoder = TextEncoder(opened, text_models(opened)("text_encoder_2"))
    states = states_of(0.5, np.float16)
    for array in (
        encoder.plain(states, 1),
        encoder.normalised(states, 0),
        encoder.normalised(states, 1),
        encoder.pooled(states),
    ):
        assert array.dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_states_that_are_not_finite_are_named_after_their_encoder(
    bundle: Callable[[str], Path], value: float
) -> None:
    opened = Bundle.open(bundle("xl"))
    encoder = TextEncoder(opened, text_models(opened)("text_encoder_2"))
    states = states_of(value, np.float32)
    problem = "^text_encoder_2 returned a value that is not finite"
    for skipped in (0, 1):
        with pytest.raises(NonFinite, match=problem):
            encoder.normalised(states, skipped)
    with pytest.raises(NonFinite, match=problem):
        encoder.plain(states, 1)
    with pytest.raises(NonFinite, match=problem):
        encoder.pooled(states)


# Textual inversions of several vectors, saved with their pipeline.

INVERSIONS = {"tokenizer": ("<x>", "<x>_1", "<x>_2"), "tokenizer_2": ("<x>", "<x>_1")}
INVERTED = "a red <x> beside <x>, circle"


@pytest.fixture(scope="module")
def inverted(
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, Path]:
    """diffusers' pipeline of SDXL with added vectors, and the bundle of what it saves."""
    folder = tmp_path_factory.mktemp("inverted")
    kind: Any = StableDiffusionXLPipeline
    pipeline = kind.from_pretrained(checkpoint("xl"), low_cpu_mem_usage=False)
    generator = torch.Generator().manual_seed(3)
    for name, tokens in INVERSIONS.items():
        tokenizer = getattr(pipeline, name)
        encoder = getattr(pipeline, name.replace("tokenizer", "text_encoder"))
        tokenizer.add_tokens(list(tokens))
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = encoder.get_input_embeddings().weight.data
        rows = torch.randn((len(tokens), table.shape[1]), generator=generator)
        table[-len(tokens) :] = rows * table.std()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "checkpoint")
    export(folder / "checkpoint", folder / "bundle")
    return pipeline, folder / "bundle"


def test_a_textual_inversion_of_several_vectors_draws_what_diffusers_draws(
    inverted: tuple[Any, Path],
) -> None:
    theirs, bundle = inverted
    fields: dict[str, Any] = {"negative_prompt": "no <x>", "width": 64, "height": 64}
    image = theirs(
        INVERTED,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
        **fields,
    ).images[0]
    with Pipeline.open(bundle, engine="onnxruntime") as pipeline:
        request = Request(
            INVERTED,
            negative_prompt="no <x>",
            seed=5,
            size=Size(64, 64),
            sampling=Sampling(steps=4),
            guidance=5.0,
        )
        found = np.asarray(pipeline(request).images[0]) / 255.0
    # dB at fp32, ours rounded to 8 bits; the first vector alone gave 23 dB.
    assert psnr(found, np.round(image * 255.0) / 255.0, peak=1.0) >= 55.0


def test_both_tokenizers_put_their_own_vectors_in_composed_prompts_too(
    inverted: tuple[Any, Path],
) -> None:
    theirs, bundle = inverted
    opened = Bundle.open(bundle)
    request = Request("a circle", composed=[(INVERTED, 0.5)], size=Size(64, 64), guidance=5.0)
    found = answered(Conditioner(opened, text_models(opened))(request)).prompts[1].constant
    with torch.inference_mode():
        expected = theirs.encode_prompt(INVERTED, device="cpu", do_classifier_free_guidance=False)
    for name, tensor in (("encoder_hidden_states", expected[0]), ("text_embeds", expected[2])):
        assert Difference.between(found[name], tensor[0].numpy()).relative < ROUNDING


def test_a_million_characters_are_tokenized_in_seconds(inverted: tuple[Any, Path]) -> None:
    # One word, many words, and a vector at each: what is not linear would take minutes.
    tokenizer = PromptTokenizer.of(Bundle.open(inverted[1]))
    for prompt in ("a" * 10**6, "red " * 250_000, "<x> " * 250_000, "\u0301" * 10**6):
        begun = time.process_time()
        tokens = tokenizer(prompt)
        assert time.process_time() - begun < 20
        assert len(tokens.ids) == LENGTH
        assert tokens.cut


# Bundles whose tokenizer does not fit.

SPECIAL = {"bos_token_id": 624, "eos_token_id": 625, "pad_token_id": 625, "model_max_length": 77}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bos_token_id", -1),
        ("bos_token_id", None),
        ("eos_token_id", "625"),
        ("eos_token_id", True),
        ("pad_token_id", 625.5),
        ("pad_token_id", 2**40),
        ("model_max_length", 1),
        ("model_max_length", 10**9),
    ],
)
def test_a_special_token_that_is_no_id_is_named(
    bundle: Callable[[str], Path], tmp_path: Path, key: str, value: object
) -> None:
    shutil.copytree(bundle("heads") / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "special_tokens.json"
    path.write_text(json.dumps({**SPECIAL, key: value}))
    problem = f"tokenizer: is malformed: {key}: expected an integer .*, got {value!r}"
    with pytest.raises(BundleError, match=problem):
        PromptTokenizer(tmp_path / "tokenizer")


def test_special_tokens_of_an_earlier_version_are_read(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(bundle("heads") / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "special_tokens.json").write_text(json.dumps(SPECIAL))
    found = PromptTokenizer(tmp_path / "tokenizer")("a red circle")
    own = PromptTokenizer(bundle("heads") / "tokenizer")("a red circle")
    assert found.ids.tolist() == own.ids.tolist()


def test_a_token_that_the_table_lacks_is_named(bundle: Callable[[str], Path]) -> None:
    opened = Bundle.open(bundle("heads"))
    encoder = TextEncoder(opened, text_models(opened)("text_encoder"))
    with pytest.raises(BundleError, match="has a table of 626 tokens, the tokenizer gives 700"):
        answered(encoder(np.array([624, 700, 625])))


def test_text_that_is_not_unicode_is_refused_by_a_tokenizer(bundle: Callable[[str], Path]) -> None:
    tokenizer = PromptTokenizer.of(Bundle.open(bundle("heads")))
    with pytest.raises(InputError, match=r"^prompt: expected text"):
        tokenizer("caf\udce9")


def test_tokenizers_of_two_lengths_are_refused(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundle("xl"), tmp_path / "xl"))
    opened = Bundle.open(folder)
    (folder / "tokenizer_2" / "special_tokens.json").write_text(
        json.dumps({**SPECIAL, "model_max_length": 60})
    )
    with pytest.raises(BundleError, match=r"has tokenizers of \[60, 77\] tokens"):
        Conditioner(opened, text_models(opened))
