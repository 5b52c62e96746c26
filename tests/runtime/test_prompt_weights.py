"""Weights of a prompt's words, and its tokens, by the rules of AUTOMATIC1111's web UI.

The table has what the web UI's own `parse_prompt_attention` gives; the first six rows are the
examples in its documentation.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.weights.test_clip_tokenizer import library, ours
from transformers import CLIPTokenizer

from latentrt.runtime.prompts.chunks import split_chunks
from latentrt.runtime.prompts.composition import split_prompts
from latentrt.runtime.prompts.emphasis import DEEPEST, weighted
from latentrt.runtime.text import PromptTokenizer
from latentrt.weights.clip_vocabulary import END, tokenizer_files

Piece = tuple[str, float]

# Between BREAKs, the pieces of a prompt with their weights.
TABLE: list[tuple[str, list[list[Piece]]]] = [
    ("normal text", [[("normal text", 1.0)]]),
    ("an (important) word", [[("an ", 1.0), ("important", 1.1), (" word", 1.0)]]),
    ("(unbalanced", [[("unbalanced", 1.1)]]),
    ("\\(literal\\]", [[("(literal]", 1.0)]]),
    ("(unnecessary)(parens)", [[("unnecessaryparens", 1.1)]]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ]
        ],
    ),
    ("(word)", [[("word", 1.1)]]),
    ("((word))", [[("word", 1.2100000000000002)]]),
    ("(word:1.3)", [[("word", 1.3)]]),
    ("[word]", [[("word", 0.9090909090909091)]]),
    ("[[word]]", [[("word", 0.8264462809917354)]]),
    ("([word])", [[("word", 1.0)]]),
    ("[(word)]", [[("word", 1.0)]]),
    ("(word:0)", [[("word", 0.0)]]),
    ("(word:-1.5)", [[("word", -1.5)]]),
    ("(word:+1.2)", [[("word", 1.2)]]),
    ("(word: 1.25 )", [[("word", 1.25)]]),
    ("(a (b:2) c:1.5)", [[("a ", 1.5), ("b", 3.0), (" c", 1.5)]]),
    ("(a [b] c)", [[("a ", 1.1), ("b", 1.0), (" c", 1.1)]]),
    ("a \\(b\\) c", [[("a (b) c", 1.0)]]),
    ("\\\\(a)", [[("\\", 1.0), ("a", 1.1)]]),
    ("a\\b", [[("ab", 1.0)]]),
    ("a) b", [[("a) b", 1.0)]]),
    ("a] b", [[("a] b", 1.0)]]),
    ("[a", [[("a", 0.9090909090909091)]]),
    ("((a) b", [[("a", 1.2100000000000002), (" b", 1.1)]]),
    ("a :1.3) b", [[("a :1.3) b", 1.0)]]),
    ("(a:1.3", [[("a:1.3", 1.1)]]),
    ("(a:b)", [[("a:b", 1.1)]]),
    ("a (red, blue:1.4), green", [[("a ", 1.0), ("red, blue", 1.4), (", green", 1.0)]]),
    ("(a)(b)[c]", [[("ab", 1.1), ("c", 0.9090909090909091)]]),
    ("", [[("", 1.0)]]),
    ("()", [[("", 1.0)]]),
    ("a (b) c (d) e", [[("a ", 1.0), ("b", 1.1), (" c ", 1.0), ("d", 1.1), (" e", 1.0)]]),
    (
        "(masterpiece:1.2), best (quality), [blurry]",
        [
            [
                ("masterpiece", 1.2),
                (", best ", 1.0),
                ("quality", 1.1),
                (", ", 1.0),
                ("blurry", 0.9090909090909091),
            ]
        ],
    ),
    ("a BREAK b", [[("a", 1.0)], [("b", 1.0)]]),
    (
        "a (b) BREAK (c:1.3) d",
        [[("a ", 1.0), ("b", 1.1), ("", 1.0)], [("", 1.0), ("c", 1.3), (" d", 1.0)]],
    ),
    ("BREAK a", [[("", 1.0)], [("a", 1.0)]]),
    ("a BREAK BREAK b", [[("a", 1.0)], [("", 1.0)], [("b", 1.0)]]),
    ("breakfast BREAKFAST BREAKs", [[("breakfast BREAKFAST BREAKs", 1.0)]]),
    ("one\ntwo (three\nfour)", [[("one\ntwo ", 1.0), ("three\nfour", 1.1)]]),
    ("(a:1.1)(b)", [[("ab", 1.1)]]),
    ("a  BREAK\n b", [[("a", 1.0)], [("b", 1.0)]]),
    ("(naïve café:1.5) 部屋", [[("naïve café", 1.5), (" 部屋", 1.0)]]),
    ("(a [b) c]", [[("a ", 1.1), ("b", 1.0), (" c", 0.9090909090909091)]]),
    ("((a:1.5) b:.5)", [[("a", 0.75), (" b", 0.5)]]),
    ("(a:1:2)", [[("a:1", 2.0)]]),
    ("(:1.3)", [[("", 1.0)]]),
    ("<lora:x:1> (y)", [[("<lora:x:1> ", 1.0), ("y", 1.1)]]),
    ("{a} (b)", [[("{a} ", 1.0), ("b", 1.1)]]),
]
LENGTH = 77

Tokenizers = tuple[PromptTokenizer, CLIPTokenizer]


@pytest.fixture(scope="module", params=[END, "!"], ids=["end", "other"])
def tokenizers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizers:
    """CLIP's vocabulary, here and in transformers, filled with the end token and with "!"."""
    files = tokenizer_files(request.param)
    folder: Path = tmp_path_factory.mktemp("tokenizer") / "saved"
    ours(files).save(folder)
    return PromptTokenizer(folder), library(files)


@pytest.mark.parametrize(("prompt", "expected"), TABLE, ids=[prompt for prompt, _ in TABLE])
def test_pieces_have_the_weights_of_the_web_ui(prompt: str, expected: list[list[Piece]]) -> None:
    found = [[(piece.text, piece.weight) for piece in part] for part in weighted(prompt)]
    assert found == expected


@pytest.mark.parametrize(("prompt", "expected"), TABLE, ids=[prompt for prompt, _ in TABLE])
def test_tokens_are_those_of_transformers_with_the_weights_of_their_pieces(
    tokenizers: Tokenizers, prompt: str, expected: list[list[Piece]]
) -> None:
    runtime, reference = tokenizers
    chunks = split_chunks(weighted(prompt), runtime)
    assert len(chunks) == len(expected)
    for chunk, part in zip(chunks, expected, strict=True):
        ids, weights = [reference.bos_token_id], [1.0]
        for text, weight in part:
            own = reference(text, add_special_tokens=False).input_ids
            ids += own
            weights += [weight] * len(own)
        ids += [reference.eos_token_id]
        ids += [reference.pad_token_id] * (LENGTH - len(ids))
        weights += [1.0] * (LENGTH - len(weights))
        assert chunk.ids.tolist() == ids
        np.testing.assert_array_equal(chunk.weights, np.array(weights, np.float32), strict=True)


def test_a_break_between_brackets_begins_a_chunk_too() -> None:
    # The web UI reads it as the word BREAK with a negative weight there.
    found = [[(p.text, p.weight) for p in part] for part in weighted("(red BREAK green:1.3) a")]
    assert found == [[("red", 1.3)], [("green", 1.3), (" a", 1.0)]]


@pytest.mark.parametrize("number", ["1.2.3", ".", "..", "+.", "-"])
def test_a_weight_that_is_no_number_is_text(number: str) -> None:
    # The web UI fails there.
    (part,) = weighted(f"(a:{number})")
    assert [(piece.text, piece.weight) for piece in part] == [(f"a:{number}", 1.1)]


def test_brackets_beyond_the_deepest_are_text() -> None:
    (part,) = weighted("(" * (DEEPEST + 2) + "a" + ")" * (DEEPEST + 2))
    assert [piece.text for piece in part] == ["((a", "))"]
    # As many multiplications, each with half a unit of rounding.
    assert part[0].weight == pytest.approx(1.1**DEEPEST, rel=1e-13)
    assert part[1].weight == 1.0


SYNTAX = st.text(alphabet="ab ()[]:|\\,.0123+-\nBREAKND<>{}é", max_size=60)
"""Texts of what the parsers look for."""


@given(st.one_of(SYNTAX, st.text(max_size=60)))
def test_every_text_has_weights(prompt: str) -> None:
    parts = weighted(prompt)
    assert parts
    texts = [piece.text for part in parts for piece in part]
    # Nothing but brackets, weights, backslashes, BREAKs and the spaces around those gets lost.
    kept = iter(prompt)
    assert all(character in kept for character in "".join(texts))
    assert all(part for part in parts)


@given(st.text(alphabet=st.characters(exclude_characters="()[]\\"), max_size=60))
def test_a_text_without_brackets_is_one_piece_of_weight_one(prompt: str) -> None:
    parts = weighted(prompt.replace("BREAK", ""))
    assert [[(piece.text, piece.weight) for piece in part] for part in parts] == [
        [(prompt.replace("BREAK", ""), 1.0)]
    ]


@pytest.mark.parametrize(
    "repeated",
    ["(", "[", ")", "(a", "(a)", "[a]", "((a:1.1)", ":", "\\", " BREAK ", "(a:", " ", "1", ":1."],
)
def test_the_time_for_weights_grows_with_the_length(repeated: str) -> None:
    # Ten times as long; with the square of the length it would take a hundred times.
    assert seconds(repeated * 5_000) < 30 * seconds(repeated * 500) + 0.02


def seconds(prompt: str) -> float:
    """The processor's time, the least of three runs."""
    found: list[float] = []
    for _ in range(3):
        begun = time.process_time()
        weighted(prompt)
        found.append(time.process_time() - begun)
    return min(found)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a cat AND a dog", [("a cat", 1.0), ("a dog", 1.0)]),
        ("a cat :1.2 AND a dog:0.5", [("a cat", 1.2), ("a dog", 0.5)]),
        ("a AND b :-.5 AND (c:1.3)", [("a", 1.0), ("b", -0.5), ("(c:1.3)", 1.0)]),
        ("a : 2 AND b: +1.", [("a", 2.0), ("b", 1.0)]),
        ("a:b AND c:1e3", [("a:b", 1.0), ("c:1e3", 1.0)]),
        ("sAND and BRAND ANDy", [("sAND and BRAND ANDy", 1.0)]),
        ("a AND", [("a", 1.0), ("", 1.0)]),
        # Without AND the web UI reads these as the weights 9 and 30.
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
        ("at 12:30 ", [("at 12:30 ", 1.0)]),
    ],
)
def test_and_separates_prompts_with_weights(prompt: str, expected: list[Piece]) -> None:
    assert list(split_prompts(prompt)) == expected


@given(st.one_of(SYNTAX, st.text(max_size=60)))
def test_every_text_is_at_least_one_prompt(prompt: str) -> None:
    found = split_prompts(prompt)
    assert found
    if len(found) == 1:
        assert found == ((prompt, 1.0),)
