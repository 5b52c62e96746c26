"""Merging, comparing and extracting: closed forms, PyTorch's SVD, and diffusers with the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from tests.weights.lora.files import noise
from tests.weights.lora.layers import LYCORIS, base_of, canonical, lycoris_file, relative

from latentrt.bundle.errors import InputError, WeightsError
from latentrt.bundle.tensors import TensorFile, save_tensors
from latentrt.weights.checkpoint import Tensors
from latentrt.weights.difference import Summary, diff
from latentrt.weights.extraction import extract
from latentrt.weights.lora.changed import changed_tensors
from latentrt.weights.lora.lora import Lora
from latentrt.weights.merging import add_difference, merge
from latentrt.weights.source import TensorSource

Get = Callable[[str], Path]

# Sums of float32 in another order.
ROUNDING = 1e-6


def source(path: Path, tensors: Mapping[str, Any]) -> TensorSource:
    """Arrays in a file."""
    save_tensors(path, {name: np.asarray(value) for name, value in tensors.items()})
    return Tensors((TensorFile(path),), "unet")


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, -0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_merge_is_the_weighted_sum_rounded_once(dtype: Any, alpha: float, tmp_path: Path) -> None:
    a, b = (noise(5, 7, seed=n).astype(dtype) for n in (0, 1))
    merged = merge(source(tmp_path / "a", {"x": a}), source(tmp_path / "b", {"x": b}), alpha)
    exact = (1 - alpha) * a.astype(np.float64) + alpha * b.astype(np.float64)
    assert merged["x"].dtype == dtype
    assert merged.entry("x").dtype == dtype
    # Half a unit of the dtype's, and float32's own rounding.
    half = float(ml_dtypes.finfo(dtype).eps) / 2 + 2e-7
    assert np.all(np.abs(merged["x"].astype(np.float64) - exact) <= half * (np.abs(exact) + 1))
    if alpha in (0, 1):
        assert merged["x"].tobytes() == (a, b)[int(alpha)].tobytes()


def test_a_difference_is_added(tmp_path: Path) -> None:
    a, b, c = (noise(5, 7, seed=n) for n in range(3))
    sources = [source(tmp_path / str(n), {"x": x}) for n, x in enumerate((a, b, c))]
    found = add_difference(sources[0], sources[1], sources[2], 0.7)["x"]
    assert relative(found, a.astype(np.float64) + 0.7 * (b.astype(np.float64) - c)) < ROUNDING


def test_a_difference_leaves_the_channels_that_only_an_inpainting_unet_has(tmp_path: Path) -> None:
    a, b, c = noise(3, 9, 3, 3), noise(3, 4, 3, 3, seed=1), noise(3, 4, 3, 3, seed=2)
    sources = [source(tmp_path / str(n), {"conv_in.weight": x}) for n, x in enumerate((a, b, c))]
    found = add_difference(sources[0], sources[1], sources[2], 1.0)["conv_in.weight"]
    np.testing.assert_array_equal(found[:, 4:], a[:, 4:])
    assert relative(found[:, :4], a[:, :4] + (b - c)) < ROUNDING
    with pytest.raises(WeightsError, match=r"\(3, 9, 3, 3\) in A and \(3, 4, 3, 3\) in another"):
        merge(sources[0], sources[1], 0.5)


def test_checkpoints_of_two_architectures_are_not_merged(tmp_path: Path) -> None:
    a = source(tmp_path / "a", {"x": noise(2, 3), "model_ema.x": noise(2), "n": np.int64(3)})
    other = source(tmp_path / "b", {"x": noise(3, 2)})
    with pytest.raises(WeightsError, match=r"tensor 'x' is \(2, 3\) in A and \(3, 2\) in another"):
        merge(a, other, 0.5)
    with pytest.raises(WeightsError, match="tensor 'x' is in A alone"):
        merge(a, source(tmp_path / "c", {"y": noise(2)}), 0.5)
    more = merge(a, source(tmp_path / "d", {"x": noise(2, 3), "y": noise(2), "z": noise(2)}), 0.5)
    assert more.notes == ("merge: left out y and 1 more, which A lacks",)
    # Averages would be those of another model; what holds no floats is A's.
    assert set(more) == {"x", "n"}
    assert more["n"] == 3


def test_a_merge_that_overflows_is_refused(tmp_path: Path) -> None:
    a, b = (
        source(tmp_path / n, {"x": np.full(2, v, np.float16)}) for n, v in (("a", 1), ("b", 6e4))
    )
    with pytest.raises(WeightsError, match="'x' does not fit into float16 when merged"):
        _ = merge(a, b, 2)["x"]


def test_differences_are_norms_and_counts(tmp_path: Path) -> None:
    a = {
        "same": noise(4),
        "moved": np.array([3, 4, 0], np.float32),
        "a": noise(2),
        "shape": noise(2, 3),
    }
    b = {
        "same": noise(4),
        "moved": np.array([3, 4, 2], np.float32),
        "b": noise(5),
        "shape": noise(3, 2),
    }
    found = {d.name: d for d in diff(source(tmp_path / "a", a), source(tmp_path / "b", b))}
    moved = found["moved"]
    assert (moved.count, moved.changed, moved.norm, moved.distance) == (3, 1, 5, 2)
    assert (moved.relative, moved.largest) == (0.4, 2)
    assert (found["same"].changed, found["same"].relative) == (0, 0)
    assert found["a"].problem == "in A alone"
    assert found["b"].problem == "in B alone"
    assert found["shape"].problem == "[2, 3] in A, [3, 2] in B"
    summary = Summary.of([moved, found["same"]])
    assert (summary.tensors, summary.changed_tensors, summary.count, summary.changed) == (
        2,
        1,
        7,
        1,
    )
    assert math.isclose(
        summary.relative, 2 / np.sqrt(25 + np.linalg.norm(a["same"]) ** 2), rel_tol=1e-6
    )


def test_bfloat16_is_compared_as_float32(tmp_path: Path) -> None:
    a, b = noise(50).astype(ml_dtypes.bfloat16), noise(50).astype(np.float32)
    (found,) = diff(source(tmp_path / "a", {"x": a}), source(tmp_path / "b", {"x": b}))
    assert math.isclose(found.distance, np.linalg.norm(a.astype(np.float64) - b), rel_tol=1e-6)


class Sum(dict[str, Any]):
    """A component whose tensors are a base's, some of them replaced."""

    renamed, notes = "", ()

    def entry(self, name: str) -> Any:
        class Of:
            shape, dtype = self[name].shape, self[name].dtype

        return Of

    def place(self, name: str) -> None: ...


def changed_by(base: Mapping[str, TensorSource], path: Path) -> Mapping[str, Any]:
    """The whole model with a LoRA."""
    changed = changed_tensors(base, [Lora(path)])
    return {
        folder: Sum({name: tensors[name] for name in tensors} | dict(changed.get(folder, {})))
        for folder, tensors in base.items()
    }


@pytest.mark.parametrize("configuration", ["heads", "xl"])
def test_the_lora_that_was_added_is_extracted_and_read_by_diffusers(
    configuration: str, checkpoint: Get, tmp_path: Path
) -> None:
    base = base_of(checkpoint(configuration))
    only = ("attn", "to_q", "proj_in")
    changes = lycoris_file(
        tmp_path / "in.safetensors", checkpoint(configuration), LYCORIS["lora"], only=only
    )
    tuned = changed_by(base, tmp_path / "in.safetensors")
    path = tmp_path / "out.safetensors"
    found = extract(tuned, base, 3, path, dtype="float32")
    # The rounding of weights + change in float32, relative to the change.
    assert found.error < 1e-5
    assert not found.left_out
    expected = {(folder, name) for folder, of in changes.items() for name in of}
    assert {(layer.folder, f"{layer.layer}.weight") for layer in found.layers} == expected
    pipeline: Any = DiffusionPipeline.from_pretrained(
        checkpoint(configuration), low_cpu_mem_usage=False
    )
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    pipeline.fuse_lora(components=list(base))
    pipeline.unload_lora_weights()
    for folder in base:
        for name, tensor in getattr(pipeline, folder).state_dict().items():
            weight = tuned[folder][canonical(name, folder)]
            assert relative(tensor.numpy(), weight) < 1e-5


def test_what_a_lower_rank_misses_is_pytorchs(checkpoint: Get, tmp_path: Path) -> None:
    base = base_of(checkpoint("heads"))
    path = tmp_path / "in.safetensors"
    lycoris_file(path, checkpoint("heads"), LYCORIS["full"])
    tuned = changed_by(base, path)
    found = extract(tuned, base, 2, tmp_path / "out.safetensors", dtype="float32")
    squares = whole = 0.0
    for layer in found.layers:
        name = f"{layer.layer}.weight"
        change = torch.from_numpy(tuned[layer.folder][name] - base[layer.folder][name]).double()
        values = torch.linalg.svdvals(change.reshape(len(change), -1))
        assert math.isclose(layer.missed, float(values[2:].norm()), rel_tol=1e-4)
        squares += float(values[2:].square().sum())
        whole += float(values.square().sum())
    biases = {
        f"{folder}: {name}": float(np.linalg.norm(tuned[folder][name] - base[folder][name]))
        for folder in base
        for name in base[folder]
        if not np.array_equal(tuned[folder][name], base[folder][name]) and name.endswith("bias")
    }
    assert found.left_out == pytest.approx(biases)
    lost = sum(distance**2 for distance in biases.values())
    assert math.isclose(found.error, math.sqrt((squares + lost) / (whole + lost)), rel_tol=1e-4)


def test_the_error_counts_the_rounding_of_the_factors(checkpoint: Get, tmp_path: Path) -> None:
    base = base_of(checkpoint("heads"))
    lycoris_file(tmp_path / "in.safetensors", checkpoint("heads"), LYCORIS["lora"], only=("attn",))
    tuned = changed_by(base, tmp_path / "in.safetensors")
    found = extract(tuned, base, 8, tmp_path / "out.safetensors", dtype="bfloat16")
    stored = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert {t.dtype for n, t in stored.items() if "alpha" not in n} == {torch.bfloat16}
    again = changed_by(base, tmp_path / "out.safetensors")
    squares = whole = 0.0
    for layer in found.layers:
        name = f"{layer.layer}.weight"
        one, other, before = (of[layer.folder][name] for of in (again, tuned, base))
        squares += float(np.linalg.norm(one - other)) ** 2
        whole += float(np.linalg.norm(other - before)) ** 2
    assert 1e-3 < found.error < 1e-2
    assert math.isclose(found.error, math.sqrt(squares / whole), rel_tol=1e-3)


def test_nothing_is_extracted_from_equal_or_unlike_checkpoints(
    checkpoint: Get, tmp_path: Path
) -> None:
    base = base_of(checkpoint("heads"))
    with pytest.raises(InputError, match="tuned: expected a checkpoint whose layers differ"):
        extract(base, base, 4, tmp_path / "out")
    with pytest.raises(InputError, match="rank: expected a whole number from 1 to 4096, got 0"):
        extract(base, base, 0, tmp_path / "out")
    with pytest.raises(WeightsError, match="is missing or has another shape in the tuned"):
        extract(base_of(checkpoint("xl")), base, 4, tmp_path / "out")
