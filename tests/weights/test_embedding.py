"""Textual inversion files: their layouts, and what is refused."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentrt.bundle.errors import InputError, LatentrtError, WeightsError
from latentrt.weights.embedding import ANY, Embedding

ROWS = torch.arange(12.0).reshape(3, 4) / 8
LAYOUTS: dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {
    "a web UI's": ({"emb_params": ROWS}, {ANY: ROWS}),
    "a converted web UI's": (
        {"string_to_param.*": ROWS, "string_to_token.*": torch.tensor(265)},
        {ANY: ROWS},
    ),
    "diffusers', of one vector": ({"<x>": ROWS[0]}, {ANY: ROWS[:1]}),
    "diffusers', of several": ({"<x>": ROWS}, {ANY: ROWS}),
    "SDXL's": ({"clip_l": ROWS, "clip_g": ROWS * 2}, {"clip_l": ROWS, "clip_g": ROWS * 2}),
    "SDXL's, of one encoder": ({"clip_g": ROWS}, {"clip_g": ROWS}),
    "fp16": ({"emb_params": ROWS.half()}, {ANY: ROWS}),
    "bf16": ({"emb_params": ROWS.bfloat16()}, {ANY: ROWS}),
    "fp64": ({"emb_params": ROWS.double()}, {ANY: ROWS}),
    "fp8": ({"emb_params": ROWS.to(torch.float8_e4m3fn)}, {ANY: ROWS}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vectors_of_every_layout_are_read(tmp_path: Path, layout: str) -> None:
    stored, expected = LAYOUTS[layout]
    path = tmp_path / "<x>.safetensors"
    save_file(stored, path)
    embedding = Embedding(path)
    assert set(embedding.vectors) == set(expected)
    for key, rows in expected.items():
        found = embedding.vectors[key]
        assert found.dtype == np.float32
        assert not found.flags.writeable
        assert np.array_equal(found, rows.numpy())
    assert embedding.count == len(next(iter(expected.values())))


def test_the_token_is_the_files_name_unless_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "Bad-Hands.v1.safetensors"
    save_file({"emb_params": ROWS}, path)
    assert Embedding(path).token == "Bad-Hands.v1"
    named = Embedding(str(path), "<x>")
    assert named.token == "<x>"
    assert named.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert named != Embedding(path)
    assert named == Embedding(path, "<x>")
    other = tmp_path / "other.safetensors"
    save_file({"emb_params": ROWS * 2}, other)
    assert named != Embedding(other, "<x>")


@pytest.mark.parametrize("token", ["", " ", "a\0b", "\ud83d", 3])
def test_a_token_that_no_prompt_can_hold_is_refused(tmp_path: Path, token: Any) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"emb_params": ROWS}, path)
    with pytest.raises(InputError, match=r"^token: expected text that a prompt"):
        Embedding(path, token)


REFUSED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a checkpoint": (
        {"a.weight": ROWS, "b.weight": ROWS * 2},
        r"is not an embedding: it has 2 tensors \('a.weight', 'b.weight'\), expected one, or clip",
    ),
    "one encoder's and another tensor": (
        {"clip_l": ROWS, "other": ROWS * 2},
        r"is not an embedding: it has 2 tensors \('clip_l', 'other'\)",
    ),
    "two embeddings": (
        {"emb_params": ROWS, "string_to_param.*": ROWS * 2},
        r"is not an embedding: it has 2 tensors \('emb_params', 'string_to_param.\*'\)",
    ),
    "nothing": ({}, r"is not an embedding: it has 0 tensors \(none\)"),
    "a matrix of matrices": ({"x": ROWS[None]}, r"tensor 'x' is \(1, 3, 4\), expected \[n, width"),
    "no vectors": ({"x": ROWS[:0]}, r"tensor 'x' is \(0, 4\), expected"),
    "a number": ({"x": torch.tensor(1.0)}, r"tensor 'x' is \(\), expected"),
    "too many vectors": ({"x": torch.zeros(76, 4)}, "with at most 75 vectors"),
    "vectors of no width": ({"x": ROWS[:, :0]}, r"tensor 'x' is \(3, 0\), expected"),
    "vectors too wide": ({"x": torch.zeros(1, (1 << 14) + 1)}, r"tensor 'x' is \(1, 16385\), exp"),
    "whole numbers": ({"x": ROWS.long()}, "tensor 'x' is int64, expected a float"),
    "infinity": ({"x": ROWS + torch.inf}, "tensor 'x' has values that are not finite"),
    "NaN": ({"x": ROWS / 0}, "tensor 'x' has values that are not finite"),
    "two numbers of vectors": (
        {"clip_l": ROWS, "clip_g": ROWS[:2].clone()},
        "has 3 in clip_l and 2 in clip_g vectors: expected the same number",
    ),
}


@pytest.mark.parametrize(("stored", "problem"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_an_embedding_is_refused(
    tmp_path: Path, stored: dict[str, torch.Tensor], problem: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(stored, path)
    with pytest.raises(WeightsError, match=problem):
        Embedding(path)


def test_a_pickle_is_refused_with_how_to_convert_it(tmp_path: Path) -> None:
    for name in ("x.pt", "x.bin", "renamed.safetensors"):
        torch.save({"string_to_param": {"*": ROWS}}, tmp_path / name)
        with pytest.raises(WeightsError, match=r"pickles are; .*safetensors\.torch\.save_file"):
            Embedding(tmp_path / name)


def header(shape: list[int], end: int, size: int) -> bytes:
    entry = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}
    text = json.dumps(entry).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0" * 7, (1 << 26).to_bytes(8, "little") + b"{", header([9, 9], 324, 100)),
        *(header([-1, -4], 16, 16), header([1 << 40] * 2, 16, 16), header([2, 2], 16, 99)),
    ],
    ids=["empty", "short", "a huge header", "truncated", "negative", "huge", "longer"],
)
def test_a_damaged_file_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    begun = time.perf_counter()
    with pytest.raises(LatentrtError):
        Embedding(path)
    assert time.perf_counter() - begun < 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors: cannot be read"):
        Embedding(tmp_path / "none.safetensors")
