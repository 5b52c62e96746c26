"""A VAE's file in either layout gives the tensors that diffusers makes of it, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from tests.conftest import VAE
from tests.export.pytorch import stored
from tests.original import random, under, vae

from latentrt.bundle.errors import CheckpointError, WeightsError
from latentrt.bundle.tensors import TensorFile, save_tensors
from latentrt.weights.checkpoint import Checkpoint, Tensors
from latentrt.weights.source import TensorSource
from latentrt.weights.vae_tensors import VaeTensors

Get = Callable[[str], Path]


@pytest.fixture
def base(checkpoint: Get) -> TensorSource:
    """The VAE of a model."""
    return Checkpoint.open(checkpoint("heads")).tensors("vae")


@pytest.fixture
def original() -> dict[str, Any]:
    """Another VAE of these sizes, in the original layout without a prefix."""
    return random(vae(VAE["block_out_channels"], VAE["layers_per_block"]))


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_file_in_the_original_layout_is_what_diffusers_converts(
    prefix: str, base: TensorSource, original: dict[str, Any], tmp_path: Path
) -> None:
    tensors = {f"{prefix}{name}": array for name, array in original.items()}
    save_tensors(tmp_path / "vae.safetensors", {**tensors, "loss.logvar": np.zeros(1)})
    found = VaeTensors(tmp_path / "vae.safetensors", base)
    named = {
        f"first_stage_model.{name}": torch.from_numpy(array) for name, array in original.items()
    }
    expected: Any = convert_ldm_vae_checkpoint(named, dict(VAE))
    assert set(found) == set(base) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), strict=True)
        assert found.entry(name).shape == tensor.shape


@pytest.mark.parametrize("old", [False, True])
def test_a_file_of_diffusers_is_read_with_old_names_too(
    old: bool, base: TensorSource, checkpoint: Get, tmp_path: Path
) -> None:
    other = stored(checkpoint("heads@1"), "vae")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = dict(other)
    for now, before in names.items() if old else ():
        renamed = {
            name.replace(f"attentions.0.{now}", f"attentions.0.{before}"): tensor
            for name, tensor in renamed.items()
        }
    path = tmp_path / "vae.safetensors"
    safetensors.torch.save_file(renamed, path)
    found = VaeTensors(path, base)
    assert len(found) == len(other)
    for name, tensor in other.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), strict=True)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_values_have_the_dtype_of_the_models_vae(
    dtype: Any, base: TensorSource, original: dict[str, Any], tmp_path: Path
) -> None:
    save_tensors(tmp_path / "base", {name: base[name].astype(dtype) for name in base})
    save_tensors(tmp_path / "vae.safetensors", original)
    found = VaeTensors(
        tmp_path / "vae.safetensors", Tensors((TensorFile(tmp_path / "base"),), "vae")
    )
    expected = original["decoder.conv_in.weight"].astype(dtype)
    assert found.entry("decoder.conv_in.weight").dtype == dtype
    np.testing.assert_array_equal(found["decoder.conv_in.weight"], expected, strict=True)


def test_what_is_no_vae_of_the_model_is_refused(
    base: TensorSource, original: dict[str, Any], checkpoint: Get, tmp_path: Path
) -> None:
    path = tmp_path / "vae.safetensors"
    save_tensors(path, random(vae(VAE["block_out_channels"], VAE["layers_per_block"], 16)))
    with pytest.raises(CheckpointError, match="a VAE of 16 latent channels is another"):
        VaeTensors(path, base)
    missing = {name: array for name, array in original.items() if name != "quant_conv.bias"}
    save_tensors(path, missing)
    with pytest.raises(CheckpointError, match=r"'quant_conv.bias' is missing: it is not a whole"):
        VaeTensors(path, base)
    save_tensors(path, original | {"decoder.conv_in.bias": np.ones(16, np.int32)})
    with pytest.raises(CheckpointError, match=r"'decoder.conv_in.bias' is int32, expected a float"):
        VaeTensors(path, base)
    safetensors.torch.save_file(stored(checkpoint("heads"), "unet"), path)
    with pytest.raises(CheckpointError, match="holds no VAE"):
        VaeTensors(path, base)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="zip archive"):
        VaeTensors(path, base)


def test_a_value_that_is_not_finite_is_refused_when_it_is_read(
    base: TensorSource, original: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "vae.safetensors"
    save_tensors(path, original | {"decoder.conv_out.bias": np.array([1, np.nan, 1], np.float32)})
    found = VaeTensors(path, base)
    with pytest.raises(
        WeightsError, match=r"'decoder.conv_out.bias' holds a value that is not fin"
    ):
        _ = found["decoder.conv_out.bias"]


def test_a_vae_in_a_whole_checkpoint_is_found(
    base: TensorSource, original: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "whole.safetensors"
    tensors = under("first_stage_model.", vae(VAE["block_out_channels"], VAE["layers_per_block"]))
    save_tensors(path, {**random(tensors), "model.diffusion_model.out.2.bias": np.zeros(4)})
    assert set(VaeTensors(path, base)) == set(base)
