"""`latentrt inspect --prompt`, and the syntax of `latentrt generate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.outcome import Run
from transformers import CLIPTokenizer

Folders = Callable[[str], Path]


def test_inspect_shows_the_tokens_weights_chunks_and_changes_of_a_prompt(
    run: Run, bundle: Folders
) -> None:
    prompt = "a [red:(blue:1.3):0.5] [circle|star] AND " + "green " * 80 + ":0.5"
    done = run("inspect", bundle("heads"), "--prompt", prompt, "--steps", 4)
    assert done.status == 0, done.err
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert rows == [
        "prompt steps chunk tokens weight text",
        "1, weight 1 1 1 of 1 3 1 a red circle",
        "2 1 of 1 3 1 a red star",
        "3 1 of 1 1 1 a",
        "1 1.3 blue",
        "1 1 circle",
        "4 1 of 1 1 1 a",
        "1 1.3 blue",
        "1 1 star",
        "2, weight 0.5 1-4 1 of 2 75 1 " + " ".join(["green"] * 75),
        "2 of 2 5 1 green green green green green",
    ]


@pytest.mark.parametrize("configuration", ["heads", "lists"])
def test_inspect_has_each_token_and_its_weight_as_json(
    run: Run, bundle: Folders, checkpoint: Folders, configuration: str
) -> None:
    arguments = ("--prompt", r"a \(red\) (star:1.3) BREAK [b:3]", "--steps", 6, "--json")
    done = run("inspect", bundle(configuration), *arguments)
    found = json.loads(done.out)
    assert (found["steps"], found["length"], found["notes"]) == (6, 154, [])
    (prompt,) = found["prompts"]
    assert prompt["weight"] == 1
    texts = prompt["texts"]
    assert [(each["steps"], each["text"]) for each in texts] == [
        ([1, 3], r"a \(red\) (star:1.3) BREAK "),
        ([4, 6], r"a \(red\) (star:1.3) BREAK b"),
    ]
    reference: Any = CLIPTokenizer.from_pretrained(checkpoint(configuration) / "tokenizer")
    ids = reference("a (red) star", add_special_tokens=False).input_ids
    first, second = texts[1]["chunks"]
    assert [token["id"] for token in first] == ids
    assert [token["token"] for token in first] == reference.convert_ids_to_tokens(ids)
    assert [token["weight"] for token in first] == [1, 1, 1, 1, 1.3]
    assert [token["token"] for token in second] == ["b</w>"]
    assert len(texts[0]["chunks"]) == 1


def test_inspect_says_what_is_cut_from_a_plain_prompt(run: Run, bundle: Folders) -> None:
    arguments = ("--prompt", "(red " * 80, "--syntax", "plain")
    done = run("inspect", bundle("heads"), *arguments)
    assert "75" in done.out.splitlines()[1].split()
    assert done.out.splitlines()[2].startswith("note: prompt: cut after 75 tokens; left out: ")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--syntax", "html"], "syntax: expected one of webui, plain, got 'html'"),
        (["--steps", "0"], "steps: expected an integer of at least 1, got 0"),
        (["--steps", "1001"], "steps: expected an integer from 1 to 1000, got 1001"),
        (["--prompt", "a AND b:1e5 AND c:20000"], "prompt: expected weights of at most 10000"),
    ],
)
def test_bad_options_are_one_line(
    run: Run, bundle: Folders, options: list[str], problem: str
) -> None:
    done = run("inspect", bundle("heads"), "--prompt", "a", *options)
    assert done.status == 2
    assert done.err.startswith(f"latentrt: {problem}")
    assert len(done.err.splitlines()) == 1


def test_inspect_shows_prompts_of_bundles_alone(run: Run, checkpoint: Folders) -> None:
    done = run("inspect", checkpoint("heads"), "--prompt", "a")
    assert done.status == 2
    assert "path: expected a bundle, with --prompt, got " in done.err


def test_the_command_draws_by_the_syntax_that_is_given(
    run: Run, bundle: Folders, tmp_path: Path
) -> None:
    common = ["--steps", 2, "--seed", 1, "--sampler", "euler", "--engine", "onnxruntime"]
    drawn: dict[str, Any] = {}
    for name, options in (
        ("web", ["a (red:1.8) circle"]),
        ("plain", ["a (red:1.8) circle", "--syntax", "plain"]),
        ("again", ["--from", tmp_path / "web.png"]),
        ("read as plain", ["--from", tmp_path / "web.png", "--syntax", "plain"]),
    ):
        path = tmp_path / f"{name}.png"
        done = run("generate", bundle("heads"), *options, "-o", path, *common)
        assert done.status == 0, done.err
        drawn[name] = np.asarray(Image.open(path))
    assert np.array_equal(drawn["web"], drawn["again"])
    assert np.array_equal(drawn["plain"], drawn["read as plain"])
    assert not np.array_equal(drawn["web"], drawn["plain"])
