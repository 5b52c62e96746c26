"""The tensors of single files, compared with what diffusers' own conversion gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from numpy.typing import NDArray
from tests import original
from tests.original import SmallConfigs, small

from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.component_specs import CLASSES
from latentrt.weights.inference import Overrides
from latentrt.weights.single_file import SingleFile
from latentrt.weights.source import TensorSource

Arrays = dict[str, NDArray[Any]]
Write = Callable[[Mapping[str, NDArray[Any]]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file by the safetensors library."""

    def save(tensors: Mapping[str, NDArray[Any]]) -> Path:
        path = tmp_path / "fox.safetensors"
        safetensors.numpy.save_file(dict(tensors), path)
        return path

    return save


def in_torch(tensors: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}


OPEN_CLIP = {
    "text_encoder": "cond_stage_model.model.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}


def converted(name: str, tensors: Mapping[str, NDArray[Any]], folder: str) -> Any:
    """What diffusers makes of a file."""
    config = dict(SmallConfigs(name).config(folder))
    stored = in_torch(tensors)
    if folder == "unet":
        return convert_ldm_unet_checkpoint(stored, config)
    if folder == "vae":
        return convert_ldm_vae_checkpoint(stored, config)
    prefix = OPEN_CLIP[folder]
    if name == "sdxl-refiner":
        prefix = "conditioner.embedders.0.model."
    if prefix + "positional_embedding" in stored:
        model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        return convert_open_clip_checkpoint(model, stored, prefix)
    found = convert_ldm_clip_checkpoint(stored)
    return {name: tensor for name, tensor in found.items() if "position_ids" not in name}


def check_equal(found: TensorSource, expected: Mapping[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    assert len(found) == len(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), strict=True)
        assert found.entry(name).shape == tuple(tensor.shape)
        assert found.entry(name).dtype == found[name].dtype


def check_places(found: TensorSource) -> list[str]:
    """Check the bytes of each place in its file; returns the names that have none."""
    without = [name for name in found if found.place(name) is None]
    for name in set(found) - set(without):
        place = found.place(name)
        assert place is not None
        assert place.entry == found.entry(name)
        with place.path.open("rb") as file:
            file.seek(place.entry.begin)
            assert file.read(place.entry.nbytes) == found[name].tobytes()
    return without


# One of each U-Net and each text encoder.
ARCHITECTURES_HERE = (
    "sd15",
    "sd15-pix2pix",
    "sd2-inpainting",
    "sdxl",
    "sdxl-refiner",
    "ssd-1b",
    "vega",
)


@pytest.mark.parametrize("name", ARCHITECTURES_HERE)
def test_every_tensor_is_what_diffusers_converts_it_to(name: str, write: Write) -> None:
    tensors = original.random(small(name))
    configs = SmallConfigs(name)
    opened = SingleFile.open(write(tensors), like=configs)
    folders = set(CLASSES) & set(ARCHITECTURES[name])
    assert set(opened.tensors_of) == folders
    for folder in sorted(folders):
        found = opened.tensors(folder)
        check_equal(found, converted(name, tensors, folder))
        # OpenCLIP's projection alone is stored in another order.
        projection = ["text_projection.weight"] if folder == "text_encoder_2" else []
        assert check_places(found) == projection


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (torch.float16, np.float16),
        (torch.bfloat16, ml_dtypes.bfloat16),
        (torch.float64, np.float64),
    ],
    ids=["fp16", "bf16", "fp64"],
)
def test_tensors_have_the_dtype_that_is_stored(
    kind: torch.dtype, dtype: Any, tmp_path: Path
) -> None:
    tensors = original.random(small("sd15"))
    path = tmp_path / "fox.safetensors"
    stored = {n: t.to(kind) for n, t in in_torch(tensors).items()}
    safetensors.torch.save_file(stored, path)
    found = SingleFile.open(path, like=SmallConfigs("sd15")).tensors("vae")
    expected = tensors["first_stage_model.quant_conv.weight"].astype(dtype)
    np.testing.assert_array_equal(found["quant_conv.weight"], expected, strict=True)
    assert check_places(found) == []


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2], ids=["e4m3", "e5m2"])
def test_tensors_of_eight_bits_are_read_as_pytorch_reads_them(
    kind: torch.dtype, tmp_path: Path
) -> None:
    narrow = {n: t.to(kind) for n, t in in_torch(original.random(small("sdxl"))).items()}
    path = tmp_path / "fox.safetensors"
    safetensors.torch.save_file(narrow, path)
    opened = SingleFile.open(path, like=SmallConfigs("sdxl"))
    encoder = opened.tensors("text_encoder_2")
    fused = narrow["conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"]
    found = encoder["text_model.encoder.layers.31.self_attn.v_proj.weight"]
    assert found.shape == (12, 12)
    np.testing.assert_array_equal(found.astype(np.float32), fused[24:].float().numpy())
    assert check_places(encoder) == ["text_projection.weight"]


def with_ema(tensors: Arrays) -> Arrays:
    """Moving averages beside the U-Net, as `LitEma` names them."""
    unet = "model.diffusion_model."
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): array + 1
        for name, array in tensors.items()
        if name.startswith(unet)
    }
    return {
        **tensors,
        **averages,
        "model_ema.decay": np.array(0.9999, np.float32),
        "model_ema.num_updates": np.array(7, np.int32),
    }


@pytest.mark.parametrize("ema", [False, True])
def test_a_unet_is_read_plain_or_as_its_moving_averages(ema: bool, write: Write) -> None:
    tensors = with_ema(original.random(small("sd15")))
    opened = SingleFile.open(write(tensors), Overrides(ema=ema), like=SmallConfigs("sd15"))
    config = dict(SmallConfigs("sd15").config("unet"))
    expected: Any = convert_ldm_unet_checkpoint(in_torch(tensors), config, extract_ema=ema)
    check_equal(opened.tensors("unet"), expected)
    check_equal(opened.tensors("vae"), converted("sd15", tensors, "vae"))
    said = "model.diffusion_model" if ema else "model_ema.diffusion_model"
    assert any(said in note for note in opened.notes)


def test_the_text_projection_of_a_layer_is_not_transposed(write: Write) -> None:
    tensors = original.random(small("sdxl"))
    where = "conditioner.embedders.1.model.text_projection"
    stored = tensors.pop(where)
    opened = SingleFile.open(
        write({**tensors, f"{where}.weight": stored}), like=SmallConfigs("sdxl")
    )
    found = opened.tensors("text_encoder_2")
    np.testing.assert_array_equal(found["text_projection.weight"], stored, strict=True)
    assert check_places(found) == []


def matrices(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The other way to store a layer that is a matrix or a 1x1 convolution."""
    if name.endswith(("proj_in.weight", "proj_out.weight")) and array.ndim == 2:
        return array[..., None, None]
    return array[:, :, 0, 0] if array.shape[2:] == (1, 1) else array


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_a_convolution_of_one_by_one_may_be_stored_as_a_matrix_and_vice_versa(
    name: str, write: Write
) -> None:
    tensors = original.random(small(name))
    other = {n: matrices(n, array) for n, array in tensors.items()}
    changed = [n for n in tensors if tensors[n].shape != other[n].shape]
    assert {n.split(".")[0] for n in changed} == {"model", "first_stage_model"}
    opened = SingleFile.open(write(other), like=SmallConfigs(name))
    for folder in ("unet", "vae"):
        found = opened.tensors(folder)
        check_equal(found, converted(name, tensors, folder))
        assert check_places(found) == []


def test_a_vaes_attention_may_be_stored_with_one_axis_of_a_kernel(write: Write) -> None:
    tensors = original.random(small("sd15"))
    attention = "first_stage_model.encoder.mid.attn_1."
    other = {
        n: t[..., 0] if n.startswith(attention) and t.ndim == 4 else t for n, t in tensors.items()
    }
    found = SingleFile.open(write(other), like=SmallConfigs("sd15")).tensors("vae")
    check_equal(found, converted("sd15", tensors, "vae"))


def test_a_text_encoder_may_lack_the_prefix_of_its_names(write: Write) -> None:
    tensors = original.random(small("sd15"))
    bare = {n.replace("transformer.text_model.", "transformer."): t for n, t in tensors.items()}
    found = SingleFile.open(write(bare), like=SmallConfigs("sd15")).tensors("text_encoder")
    check_equal(found, converted("sd15", tensors, "text_encoder"))


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "unet.", ""])
@pytest.mark.parametrize("diffusers", [False, True])
def test_a_unet_may_bear_the_names_of_diffusers_or_another_prefix(
    prefix: str, diffusers: bool, write: Write
) -> None:
    tensors = original.random(small("ssd-1b"))
    expected = converted("ssd-1b", tensors, "unet")
    usual = "model.diffusion_model."
    unet: Arrays = {n.removeprefix(usual): t for n, t in tensors.items() if n.startswith(usual)}
    if diffusers:
        unet = {n: t.numpy() for n, t in expected.items()}
    others = {n: t for n, t in tensors.items() if not n.startswith(usual)}
    opened = SingleFile.open(
        write({**others, **{prefix + n: t for n, t in unet.items()}}), like=SmallConfigs("ssd-1b")
    )
    check_equal(opened.tensors("unet"), expected)
    assert check_places(opened.tensors("unet")) == []


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae."])
def test_a_vae_may_bear_the_names_of_diffusers(prefix: str, write: Write) -> None:
    tensors = original.random(small("sd15"))
    expected = converted("sd15", tensors, "vae")
    usual = "first_stage_model."
    others = {n: t for n, t in tensors.items() if not n.startswith(usual)}
    vae = {prefix + n: t.numpy() for n, t in expected.items()}
    found = SingleFile.open(write({**others, **vae}), like=SmallConfigs("sd15")).tensors("vae")
    check_equal(found, expected)


def test_a_file_is_called_what_it_is(write: Write) -> None:
    opened = SingleFile.open(write(original.random(small("sd15"))), like=SmallConfigs("sd15"))
    assert opened.name == "fox"
    assert opened.tokenizer("tokenizer") == {"tokenizer": b"of the configs"}
