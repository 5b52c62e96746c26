"""Damaged and hostile LoRA files are refused at once, by an error that names what is wrong."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fuzz import errors_of_ours, fuzz
from tests.weights.lora.files import noise, save
from tests.weights.lora.layers import base_of

from latentrt.bundle.errors import CheckpointError, WeightsError
from latentrt.bundle.tensors import save_tensors
from latentrt.weights.lora.changed import changed_tensors
from latentrt.weights.lora.file import LoraFile
from latentrt.weights.lora.lora import Lora
from latentrt.weights.lora.spellings import ENDINGS

Get = Callable[[str], Path]

NAME = "lora_unet_conv_in"
# conv_in of "heads" is [16, 4, 3, 3].
GOOD = {f"{NAME}.lora_up.weight": noise(16, 2), f"{NAME}.lora_down.weight": noise(2, 36)}
BASE = {"unet": {"conv_in.weight": (16, 4, 3, 3), "conv_in.bias": (16,), "norm.weight": (16,)}}


@contextmanager
def at_once() -> Iterator[None]:
    """Fails if a block takes a second, or 50 MB."""
    tracemalloc.start()
    begun = time.perf_counter()
    yield
    assert time.perf_counter() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def with_values(**changes: Any) -> dict[str, Any]:
    """A good file with other tensors; None removes one."""
    names = {name.replace("_weight", ".weight"): value for name, value in changes.items()}
    tensors = GOOD | {f"{NAME}.{name}": value for name, value in names.items()}
    return {name: value for name, value in tensors.items() if value is not None}


INFINITE = np.full((2, 36), np.inf, np.float32)
BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    "no up": (with_values(lora_up_weight=None), "lora_down without lora_up"),
    "no down": (with_values(lora_down_weight=None), "lora_up without lora_down"),
    "alpha alone": ({f"{NAME}.alpha": noise(1)}, "holds alpha alone; its factors are missing"),
    "two ranks": (with_values(lora_down_weight=noise(3, 36)), "lora_up has rank 2, lora_down 3"),
    "no rank": (
        with_values(lora_up_weight=noise(16, 0), lora_down_weight=noise(0, 36)),
        r"lora_up is \[16, 0\], expected \[16, rank\]",
    ),
    "wide": (with_values(lora_down_weight=noise(2, 40)), r"\[2, 40\], expected \[rank, 36\]"),
    "long": (with_values(lora_up_weight=noise(17, 2)), r"\[17, 2\], expected \[16, rank\]"),
    "a vector": (with_values(lora_up_weight=noise(16)), r"lora_up is \[16\], expected"),
    "a core of another kernel": (
        with_values(lora_down_weight=noise(2, 4), lora_mid_weight=noise(2, 2, 1, 1)),
        r"lora_mid is \[2, 2, 1, 1\], expected \[2, 2, 3, 3\]",
    ),
    "infinity": (with_values(lora_down_weight=INFINITE), "a value that is not finite"),
    "NaN": (
        with_values(lora_down_weight=np.full((2, 36), np.nan, np.float32)),
        "a value that is not finite",
    ),
    "integers": (with_values(lora_up_weight=np.ones((16, 2), np.int8)), "int8, expected a float"),
    "a list of alphas": (with_values(alpha=noise(2)), r"alpha' is \[2\], expected one number"),
    "a square alpha": (with_values(alpha=noise(1, 1)), r"alpha' is \[1, 1\], expected one number"),
    "NaN as alpha": (with_values(alpha=np.float32("nan")), "alpha' is nan, expected a finite"),
    "true as alpha": (with_values(alpha=np.True_), "alpha' is bool, expected a number"),
    "two kinds": (with_values(diff=noise(16, 4, 3, 3)), "LoRA and a full difference"),
    "no hada_w2_a": (
        {f"{NAME}.hada_{n}": noise(*s) for n, s in (("w1_a", (16, 2)), ("w1_b", (2, 36)))},
        "without hada_w2_a",
    ),
    "one core of LoHa": (
        {
            f"{NAME}.hada_{n}": noise(*s)
            for n, s in (
                ("w1_a", (2, 16)),
                ("w1_b", (2, 4)),
                ("w2_a", (2, 16)),
                ("w2_b", (2, 4)),
                ("t1", (2, 2, 3, 3)),
            )
        },
        "without hada_t2",
    ),
    "a LoKr that does not divide": (
        {f"{NAME}.lokr_w1": noise(3, 2), f"{NAME}.lokr_w2": noise(8, 2, 3, 3)},
        r"lokr_w1 is \[3, 2\], which does not divide \[16, 4\]",
    ),
    "a LoKr without a second factor": ({f"{NAME}.lokr_w1": noise(2, 2)}, "without lokr_w2_a"),
    "magnitudes of another size": (
        with_values(dora_scale=noise(5, 1)),
        r"dora_scale is \[5, 1\], expected 16 values by output row or 4 by input column",
    ),
    "magnitudes alone": ({f"{NAME}.dora_scale": noise(16, 1)}, "its factors are missing"),
    "a magnitude of a difference": (
        {f"{NAME}.diff": noise(16, 4, 3, 3), f"{NAME}.dora_scale": noise(16, 1)},
        "a full difference and a magnitude",
    ),
    "a LoRA of a norm": (
        {
            "lora_unet_norm.lora_up.weight": noise(16, 2),
            "lora_unet_norm.lora_down.weight": GOOD[f"{NAME}.lora_down.weight"],
        },
        "its weight is a vector",
    ),
    "a bias of a layer without": ({"lora_unet_norm.b_norm": noise(16)}, "has no bias"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_naming_the_layer(case: str, tmp_path: Path) -> None:
    tensors, message = BAD[case]
    path = save(tmp_path / "it.safetensors", tensors)
    with at_once(), pytest.raises(WeightsError, match=message) as caught:
        LoraFile.open(path, BASE)
    assert caught.value.path == path
    assert "conv_in" in caught.value.problem or "norm" in caught.value.problem


def header_only(path: Path, shapes: Mapping[str, list[int]]) -> Path:
    """A file of zeros that take no space on disk."""
    entries: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.mark.parametrize("rank", [4097, 10**6])
def test_a_huge_rank_is_refused_before_it_is_read(rank: int, tmp_path: Path) -> None:
    shapes = {f"{NAME}.lora_up.weight": [16, rank], f"{NAME}.lora_down.weight": [rank, 36]}
    path = header_only(tmp_path / "it.safetensors", shapes)
    with at_once(), pytest.raises(WeightsError, match=f"rank {rank}; 4096 at most is read"):
        LoraFile.open(path, BASE)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "it.safetensors", GOOD)
    whole = path.read_bytes()
    for length in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with at_once(), pytest.raises((WeightsError, CheckpointError)):
            LoraFile.open(path, BASE)


def test_a_renamed_pickle_is_refused_saying_how_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match="write the tensors with safetensors"):
        LoraFile.open(path, BASE)


@pytest.mark.parametrize("text", ["{", '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": 1e999}'])
def test_damaged_metadata_is_refused(text: str, tmp_path: Path) -> None:
    path = save(tmp_path / "it.safetensors", GOOD, {"lora_adapter_metadata": text})
    with pytest.raises(WeightsError, match=r"lora_adapter_metadata is not|not a number"):
        LoraFile.open(path, BASE)


def test_values_that_overflow_together_are_refused(checkpoint: Get, tmp_path: Path) -> None:
    huge = {name: np.full_like(value, 3e38) for name, value in GOOD.items()}
    path = save(tmp_path / "it.safetensors", huge)
    changed = changed_tensors(base_of(checkpoint("heads")), [Lora(path)])["unet"]
    with pytest.raises(WeightsError, match="does not fit into float32"):
        _ = changed["conv_in.weight"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_value_that_is_not_finite_is_found_anywhere(dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        diff = np.full(16, -float(ml_dtypes.finfo(dtype).max)).astype(dtype)
        save_tensors(path, {f"{NAME}.diff_b": diff})
        assert set(LoraFile.open(path, BASE).changes["unet"]) == {"conv_in.bias"}
        diff[13] = value
        save_tensors(path, {f"{NAME}.diff_b": diff})
        with pytest.raises(WeightsError, match="holds a value that is not finite"):
            LoraFile.open(path, BASE)


ROLES = st.sampled_from(sorted(ENDINGS))
SIZES = st.lists(st.sampled_from([0, 1, 2, 4, 16, 36, 3]), max_size=5)
DTYPES = st.sampled_from(["float32", "float16", "int32", "bool"])


@fuzz(100)
@given(
    layers=st.lists(
        st.tuples(st.sampled_from(["conv_in", "norm", "x"]), ROLES, SIZES, DTYPES), max_size=6
    ),
    scale=st.sampled_from([1.0, -2.0, 1e30]),
    partial=st.booleans(),
)
def test_tensors_of_any_roles_and_shapes_are_applied_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    layers: list[tuple[str, str, list[int], str]],
    scale: float,
    partial: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    tensors = {
        f"lora_unet_{layer}{ending}": np.ones(shape, dtype)
        for layer, ending, shape, dtype in layers
    }
    save(path, tensors)
    base = {name: np.ones(shape, np.float32) for name, shape in BASE["unet"].items()}
    with errors_of_ours():
        file = LoraFile.open(path, BASE, partial=partial)
        for name, change in file.changes.get("unet", {}).items():
            assert change.delta(base[name], scale).shape == base[name].shape


@fuzz(100)
@given(position=st.integers(0, 700), replacement=st.binary(min_size=1, max_size=4))
@example(position=359, replacement=b"\x7f")  # a number near the largest
def test_a_file_changed_anywhere_is_applied_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, replacement: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    whole = save(path, GOOD | {f"{NAME}.alpha": np.float32(2)}).read_bytes()
    path.write_bytes(whole[:position] + replacement + whole[position + len(replacement) :])
    base = np.ones((16, 4, 3, 3), np.float32)
    with errors_of_ours():
        change = LoraFile.open(path, BASE).changes["unet"]["conv_in.weight"]
        with np.errstate(over="ignore", invalid="ignore"):  # as where tensors are changed
            assert change.delta(base, 1.0).dtype == np.float32
