"""Scales of components and blocks, sums of several LoRAs, rounding, and a variant's key."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from tests.weights.lora.files import noise, save
from tests.weights.lora.layers import LYCORIS, base_of, lycoris_file, relative

from latentrt.bundle.errors import InputError, WeightsError
from latentrt.bundle.tensors import TensorFile, save_tensors
from latentrt.weights.checkpoint import Tensors
from latentrt.weights.lora.changed import changed_tensors, write_changed
from latentrt.weights.lora.lora import Lora, weights_key

# Sums of float32 in another order.
ROUNDING = 1e-6

Get = Callable[[str], Path]


@pytest.fixture
def biases(tmp_path: Path) -> Path:
    """A file that adds 1 to one bias of every kind of block of "heads"."""
    names = {
        "unet.conv_in": 16,
        "unet.time_embedding.linear_1": 64,
        "unet.down_blocks.0.resnets.0.conv1": 16,
        "unet.down_blocks.0.attentions.0.proj_in": 16,
        "unet.down_blocks.0.downsamplers.0.conv": 16,
        "unet.down_blocks.1.resnets.0.conv1": 32,
        "unet.mid_block.resnets.1.conv1": 32,
        "unet.up_blocks.0.resnets.1.conv1": 32,
        "unet.up_blocks.1.attentions.1.proj_in": 16,
        "text_encoder.text_model.final_layer_norm": 32,
    }
    tensors = {f"{name}.diff_b": np.ones(size, np.float32) for name, size in names.items()}
    return save(tmp_path / "it.safetensors", tensors)


def added(base: dict[str, Any], *loras: Lora) -> dict[str, float]:
    """What was added to each bias."""
    found: dict[str, float] = {}
    for folder, tensors in changed_tensors(base, loras).items():
        for name in tensors:
            (change,) = {round(float(n), 5) for n in tensors[name] - base[folder][name]}
            found[name.removesuffix(".bias")] = change
    return found


ONE = {
    "conv_in": 1.0,
    "time_embedding.linear_1": 1.0,
    "down_blocks.0.resnets.0.conv1": 1.0,
    "down_blocks.0.attentions.0.proj_in": 1.0,
    "down_blocks.0.downsamplers.0.conv": 1.0,
    "down_blocks.1.resnets.0.conv1": 1.0,
    "mid_block.resnets.1.conv1": 1.0,
    "up_blocks.0.resnets.1.conv1": 1.0,
    "up_blocks.1.attentions.1.proj_in": 1.0,
    "text_model.final_layer_norm": 1.0,
}


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ({}, ONE),
        ({"scale": -0.5}, dict.fromkeys(ONE, -0.5)),
        ({"unet": 0.5}, {n: 0.5 if "text" not in n else 1.0 for n in ONE}),
        ({"scale": 2, "text_encoder": 0.5}, {n: 2 if "text" not in n else 0.5 for n in ONE}),
        (
            {"blocks": {"down": 0.5, "mid": 0.25}},
            ONE | {n: 0.5 for n in ONE if "down" in n} | {"mid_block.resnets.1.conv1": 0.25},
        ),
        (
            {"unet": 2, "blocks": {"down": 0.5, "down.0": 3, "down.0.0": 4}},
            {n: 2.0 if "text" not in n else 1.0 for n in ONE}
            | {n: 1.0 for n in ONE if "down_blocks.1" in n}
            | {"down_blocks.0.downsamplers.0.conv": 6.0}
            | {n: 8.0 for n in ONE if "s.0.resnets" in n or ("s.0.attentions" in n and "down" in n)}
            | {"up_blocks.0.resnets.1.conv1": 2.0},
        ),
        (
            {"blocks": {"up": {"block_0": 0.5, "block_1": [0.25, 0.75]}}},
            ONE | {"up_blocks.0.resnets.1.conv1": 0.5, "up_blocks.1.attentions.1.proj_in": 0.75},
        ),
        (
            {"blocks": {"IN01": 0.5, "IN02": 0.25, "M00": 2, "OUT03": 4, "BASE": 3}},
            ONE
            | {
                "down_blocks.0.resnets.0.conv1": 0.5,
                "down_blocks.0.attentions.0.proj_in": 0.5,
                "down_blocks.0.downsamplers.0.conv": 0.25,
                "mid_block.resnets.1.conv1": 2.0,
                "up_blocks.1.attentions.1.proj_in": 4.0,
                "text_model.final_layer_norm": 3.0,
            },
        ),
    ],
)
def test_scales_count_where_they_are_given(
    scales: dict[str, Any], expected: dict[str, float], biases: Path, checkpoint: Get
) -> None:
    assert added(base_of(checkpoint("heads")), Lora(biases, **scales)) == expected


def test_what_has_scale_0_is_not_touched(biases: Path, checkpoint: Get) -> None:
    base = base_of(checkpoint("heads"))
    assert changed_tensors(base, [Lora(biases, 0)]) == {}
    assert set(changed_tensors(base, [Lora(biases, text_encoder=0)])) == {"unet"}
    assert "mid_block.resnets.1.conv1" not in added(base, Lora(biases, blocks={"mid": 0}))


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (12, "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"),
        (
            17,
            "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 "
            "OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
        ),
    ],
)
def test_a_list_of_numbers_is_the_web_uis(count: int, names: str) -> None:
    numbers = [n / 10 for n in range(count)]
    assert Lora(Path("x"), blocks=numbers).blocks == tuple(zip(names.split(), numbers, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "1"}, "scale: expected a finite number, got '1'"),
        ({"scale": float("nan")}, "scale: expected a finite number, got nan"),
        ({"unet": True}, "unet: expected a finite number, got True"),
        ({"text_encoder": 10**400}, "text_encoder: expected a finite number"),
        ({"blocks": {"left": 1}}, "blocks: expected names such as .*, got 'left'"),
        ({"blocks": {"mid": "x"}}, "blocks: expected a finite number, got 'x'"),
        ({"blocks": [1, 2, 3]}, r"blocks: expected 12, 17, 20, 26 numbers, .*, got \[1, 2, 3\]"),
        ({"blocks": "mid"}, "blocks: expected names such as"),
        ({"partial": 1}, "partial: expected True or False, got 1"),
    ],
)
def test_scales_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Lora(Path("x"), **arguments)


def test_a_block_that_the_unet_does_not_have_is_refused(biases: Path, checkpoint: Get) -> None:
    base = base_of(checkpoint("heads"))
    with pytest.raises(
        InputError, match=r"blocks: expected blocks that the U-Net has, got down\.2"
    ):
        changed_tensors(base, [Lora(biases, blocks={"down.2": 0.5})])


def test_a_lora_can_be_pickled_copied_and_hashed(biases: Path) -> None:
    lora = Lora(biases, 0.5, blocks={"up": {"block_0": [1, 0.5]}})
    assert pickle.loads(pickle.dumps(lora)) == copy.copy(lora) == lora
    assert hash(lora) == hash(Lora(biases, 0.5, blocks={"up.0.0": 1, "up.0.1": 0.5}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_in_16_bits_are_computed_in_32(
    dtype: torch.dtype, checkpoint: Get, tmp_path: Path
) -> None:
    folder = checkpoint("heads")
    path = tmp_path / "it.safetensors"
    expected = lycoris_file(path, folder, LYCORIS["loha"], dtype=dtype, only=("attn",))
    base = base_of(folder)
    found = changed_tensors(base, [Lora(path)])
    for name, change in expected["unet"].items():
        assert relative(found["unet"][name], base["unet"][name] + change) < ROUNDING


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_base_of_16_bits_is_rounded_once(dtype: Any, checkpoint: Get, tmp_path: Path) -> None:
    # Two LoRAs that are each below half a unit of the base's rounding.
    names = ("conv_in.weight", "conv_in.bias")
    whole = base_of(checkpoint("heads"))["unet"]
    stored = {name: whole[name].astype(dtype) for name in names}
    save_tensors(tmp_path / "base.safetensors", stored)
    base: Any = {"unet": Tensors((TensorFile(tmp_path / "base.safetensors"),), "unet")}
    unit = float(ml_dtypes.finfo(dtype).eps) / 3
    diff = (stored["conv_in.weight"].astype(np.float32) * unit).astype(np.float32)
    path = save(tmp_path / "it.safetensors", {"unet.conv_in.diff": diff})
    found = changed_tensors(base, [Lora(path), Lora(path)])["unet"]
    exact = stored["conv_in.weight"].astype(np.float32) + diff + diff
    assert found["conv_in.weight"].dtype == dtype
    assert found["conv_in.weight"].tobytes() == exact.astype(dtype).tobytes()
    assert (found["conv_in.weight"] != stored["conv_in.weight"]).any()


def test_a_value_that_a_16_bit_base_cannot_hold_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "base.safetensors", {"conv_in.weight": np.ones((2, 2), np.float16)})
    base: Any = {"unet": Tensors((TensorFile(tmp_path / "base.safetensors"),), "unet")}
    diff = np.full((2, 2), 60000, np.float32)
    path = save(tmp_path / "it.safetensors", {"unet.conv_in.diff": diff})
    assert changed_tensors(base, [Lora(path)])["unet"]["conv_in.weight"].max() == 60000
    with pytest.raises(WeightsError, match="does not fit into float16"):
        _ = changed_tensors(base, [Lora(path, 2)])["unet"]["conv_in.weight"]


def test_a_written_file_holds_the_changed_tensors_and_the_base_is_as_it_was(
    checkpoint: Get, tmp_path: Path
) -> None:
    folder = checkpoint("heads")
    path = tmp_path / "it.safetensors"
    lycoris_file(path, folder, LYCORIS["dora by row"], only=("attn",))
    base = base_of(folder)
    stored = folder / "unet" / "diffusion_pytorch_model.safetensors"
    before = stored.read_bytes()
    changed = changed_tensors(base, [Lora(path)])["unet"]
    write_changed(tmp_path / "changed.safetensors", list(changed), changed)
    found = safetensors.torch.load_file(tmp_path / "changed.safetensors")
    assert set(found) == set(changed)
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.numpy(), changed[name])
        assert changed.entry(name).shape == tensor.shape
    assert stored.read_bytes() == before


def test_dora_after_a_lora_takes_the_norm_of_what_it_finds(checkpoint: Get, tmp_path: Path) -> None:
    base = base_of(checkpoint("heads"))
    weight = base["unet"]["conv_out.weight"]
    diff = noise(*weight.shape)
    layer = "lora_unet_conv_out"
    first = save(tmp_path / "a.safetensors", {f"{layer}.diff": diff})
    up, down, magnitude = noise(4, 2), noise(2, weight[0].size, seed=1), np.full((4, 1), 3.0)
    second = save(
        tmp_path / "b.safetensors",
        {
            f"{layer}.lora_up.weight": up,
            f"{layer}.lora_down.weight": down,
            f"{layer}.dora_scale": magnitude.astype(np.float32),
        },
    )
    sums = weight + diff + (up @ down).reshape(weight.shape)
    norms = np.linalg.norm(sums.reshape(4, -1), axis=1).reshape(4, 1, 1, 1)
    found = changed_tensors(base, [Lora(first), Lora(second)])["unet"]["conv_out.weight"]
    assert relative(found, 3 * sums / norms) < ROUNDING
    # At half the scale it goes half the way.
    found = changed_tensors(base, [Lora(first), Lora(second, 0.5)])["unet"]["conv_out.weight"]
    assert relative(found, (weight + diff + 3 * sums / norms) / 2) < ROUNDING


@pytest.mark.parametrize("shape", [(16,), (16, 1), (1, 16)])
def test_a_vector_of_magnitudes_of_a_square_layer_is_taken_by_row_with_a_note(
    shape: tuple[int, ...], checkpoint: Get, tmp_path: Path
) -> None:
    base = base_of(checkpoint("heads"))
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    magnitude = np.arange(1, 17, dtype=np.float32).reshape(shape)
    path = save(
        tmp_path / "it.safetensors",
        {
            f"unet.{layer}.lora_up.weight": noise(16, 2),
            f"unet.{layer}.lora_down.weight": noise(2, 16),
            f"unet.{layer}.dora_scale": magnitude,
        },
    )
    changed = changed_tensors(base, [Lora(path)])["unet"]
    axis = 0 if shape == (1, 16) else 1
    found = np.linalg.norm(changed[f"{layer}.weight"], axis=axis)
    assert relative(found, magnitude.reshape(-1)) < ROUNDING
    assert bool(changed.notes) == (shape == (16,))


def test_a_key_changes_with_content_scale_and_order_and_not_with_the_name(
    biases: Path, tmp_path: Path
) -> None:
    other = save(tmp_path / "other.safetensors", {"unet.conv_in.diff_b": noise(16)})
    same = tmp_path / "same.safetensors"
    same.write_bytes(biases.read_bytes())
    keys = [
        weights_key(loras)
        for loras in (
            [],
            [Lora(biases)],
            [Lora(biases, 0.5)],
            [Lora(biases, text_encoder=0.5)],
            [Lora(biases, blocks={"mid": 0.5})],
            [Lora(biases, blocks={"BASE": 0.25})],
            [Lora(other)],
            [Lora(biases), Lora(other)],
            [Lora(other), Lora(biases)],
        )
    ]
    assert len(set(keys)) == len(keys)
    assert weights_key([Lora(same, partial=True)]) == keys[1]
    assert weights_key([Lora(same, unet=0.5, text_encoder=0.5)]) == keys[2]
    assert weights_key([Lora(same, blocks={"BASE": 0.5})]) == keys[3]
    assert Lora(biases).sha256() == hashlib.sha256(biases.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match="cannot be read"):
        Lora(tmp_path).sha256()
