"""Single files that are refused, and parts that come from elsewhere."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import original
from tests.original import Shapes, SmallConfigs, small, sparse, under, whole

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.inference import Overrides
from latentrt.weights.opening import open_source
from latentrt.weights.single_file import SingleFile
from latentrt.weights.vae_file import VaeFile

UNET, VAE = "model.diffusion_model.", "first_stage_model."


def problem(path: Path, *arguments: Any, **others: Any) -> str:
    """Why a file is refused, which takes less than a second of the processor's time."""
    # The collector would walk what thousands of tests have left, for more than a second.
    gc.disable()
    try:
        begun = time.thread_time()
        with pytest.raises(CheckpointError) as caught:
            SingleFile.open(path, *arguments, **others)
        # Of this thread: others of the process may still run.
        assert time.thread_time() - begun < 1
    finally:
        gc.enable()
    assert str(caught.value).startswith(str(path))
    return caught.value.problem


def without(shapes: Shapes, *prefixes: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.startswith(prefixes)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fox.safetensors"


# Parts.


@pytest.mark.parametrize(
    ("prefix", "name", "missing", "option"),
    [
        (VAE, "sd15", "vae", "--vae FILE"),
        ("cond_stage_model.", "sd15", "text_encoder", "--text-encoder CHECKPOINT"),
        ("cond_stage_model.", "sd2-base", "text_encoder", "--text-encoder CHECKPOINT"),
        ("conditioner.embedders.0.", "sdxl", "text_encoder", "--text-encoder CHECKPOINT"),
        ("conditioner.embedders.1.", "sdxl", "text_encoder_2", "--text-encoder CHECKPOINT"),
        ("conditioner.", "sdxl-refiner", "text_encoder_2", "--text-encoder CHECKPOINT"),
    ],
)
def test_a_missing_part_is_named_with_the_option_that_supplies_it(
    prefix: str, name: str, missing: str, option: str, path: Path
) -> None:
    said = problem(sparse(path, without(whole(name), prefix)))
    assert said == f"has no {missing}: give one with {option}"


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (under(VAE, original.vae((128, 256, 512, 512), 2)), "has a VAE and no U-Net"),
        (original.vae((128, 256, 512, 512), 2), "has a VAE and no U-Net"),
        (under(*original.CLIP_L), "has a text encoder and no U-Net"),
        ({"lora_unet_mid_block.lora_up.weight": (4, 4)}, "is a LoRA"),
        ({"emb_params": (2, 768)}, "is an embedding"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "is an embedding"),
        ({"control_model.time_embed.0.weight": (4, 4)}, "is a ControlNet"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "Flux or Stable Diffusion 3"),
        ({"model.diffusion_model.joint_blocks.0.x.weight": (4,)}, "Flux or Stable Diffusion 3"),
        ({"fox.weight": (4,)}, "has no U-Net: its tensors (fox.weight)"),
        ({}, "has no U-Net: its tensors (none)"),
    ],
    ids=str,
)
def test_a_file_of_another_kind_is_called_what_it_is(shapes: Shapes, said: str, path: Path) -> None:
    assert said in problem(sparse(path, shapes))


def test_a_vae_and_a_text_encoder_can_come_from_other_files(path: Path, tmp_path: Path) -> None:
    vae, text = tmp_path / "vae.safetensors", tmp_path / "text.safetensors"
    values = original.random({"quant_conv.bias": (8,)})
    shapes = original.vae((128, 256, 512, 512), 2)
    parts = {
        "vae": VaeFile.open(sparse(vae, shapes, values)),
        "text_encoder": SingleFile.open(sparse(text, whole("sdxl"))),
        "text_encoder_2": SingleFile.open(sparse(text, whole("sdxl"))),
    }
    only_unet = without(whole("sdxl"), VAE, "conditioner.")
    opened = open_source(sparse(path, only_unet), parts=parts)
    assert isinstance(opened, SingleFile)
    np.testing.assert_array_equal(
        opened.tensors("vae")["quant_conv.bias"], values["quant_conv.bias"]
    )
    place = opened.tensors("vae").place("quant_conv.bias")
    assert place is not None
    assert place.path == vae
    # The U-Net decides the scale, whatever the VAE's file is.
    assert parts["vae"].config("vae")["scaling_factor"] == 0.18215
    assert opened.config("vae")["scaling_factor"] == 0.13025
    assert opened.config("text_encoder_2") == ARCHITECTURES["sdxl"]["text_encoder_2"]
    assert "vae: taken from vae.safetensors" in opened.notes
    assert opened.tokenizer("tokenizer_2") == parts["text_encoder_2"].tokenizer("tokenizer_2")


@pytest.mark.parametrize("prefix", ["", "vae.", VAE])
def test_a_vae_file_may_have_a_prefix(prefix: str, path: Path) -> None:
    shapes = under(prefix, original.vae((128, 256, 512, 512), 2))
    opened = VaeFile.open(sparse(path, shapes))
    assert opened.tensors("vae").entry("encoder.conv_out.weight").shape == (8, 512, 3, 3)
    assert opened.config("vae") == ARCHITECTURES["sd15"]["vae"]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (whole("sd15") | {}, None),
        ({"fox.weight": (4,)}, "has no VAE"),
        (original.vae((128, 256, 512, 512), 2, latent=16), "latents of 16"),
        (original.vae((128, 256, 512, 256), 2), "its VAE has 256 channels"),
        (original.vae((128, 256, 512), 2), "is missing"),
    ],
    ids=["a checkpoint", "none", "latents", "widths", "levels"],
)
def test_a_vae_of_another_model_is_refused(shapes: Shapes, said: str | None, path: Path) -> None:
    sparse(path, shapes)
    if said is None:
        assert len(VaeFile.open(path).tensors("vae")) == 248
    else:
        with pytest.raises(CheckpointError, match=said):
            VaeFile.open(path)


# Damage.


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.attn2.to_v.weight",
        "first_stage_model.decoder.up.3.block.2.norm2.bias",
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.bias",
    ],
)
def test_a_missing_tensor_is_named(name: str, path: Path) -> None:
    said = problem(sparse(path, without(whole("sd15"), name)))
    assert f"tensor {name!r} is missing" in said
    assert "not a whole checkpoint" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        # An unCLIP model, which takes a picture beside the text.
        ("model.diffusion_model.label_emb.0.0.weight", "of another kind of U-Net"),
        ("model.diffusion_model.scaled_fp8", "belongs to quantized weights"),
        ("first_stage_model.decoder.conv_in.scale_weight", "belongs to quantized weights"),
    ],
)
def test_a_tensor_that_would_change_the_picture_is_not_left_out(
    name: str, said: str, path: Path
) -> None:
    found = problem(sparse(path, {**whole("sd2-base"), name: (4,)}))
    assert repr(name) in found
    assert said in found


def test_averages_that_are_not_there_are_refused(path: Path) -> None:
    said = problem(sparse(path, whole("sd15")), Overrides(ema=True))
    assert said == "has no EMA weights (model_ema): read it without --ema"


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("attn.in_proj_weight", (1280 * 3 + 1, 1280), "three of one size"),
        ("attn.in_proj_bias", (), "three of one size"),
        ("text_projection", (1280,), "a matrix"),
    ],
)
def test_a_tensor_that_cannot_be_taken_apart_is_refused(
    name: str, shape: tuple[int, ...], kind: str, path: Path
) -> None:
    prefix = "conditioner.embedders.1.model."
    where = f"{prefix}transformer.resblocks.7.{name}" if "attn" in name else prefix + name
    said = problem(sparse(path, {**whole("sdxl"), where: shape}))
    assert said.startswith(f"tensor {where!r} is {shape}, expected {kind}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["edm_vpred.sigma_max", "edm_mean"])
def test_a_mark_that_is_no_number_is_refused(name: str, value: float, path: Path) -> None:
    fine = {"edm_std": np.ones(4, np.float32)}
    values = {**fine, name: np.full(4 if name == "edm_mean" else (), value, np.float32)}
    said = problem(sparse(path, whole("sdxl"), values))
    assert said.startswith(f"tensor {name!r} is [")
    assert "finite" in said


def test_a_mark_of_another_shape_is_refused(path: Path) -> None:
    values = {"edm_std": np.ones(4, np.float32), "edm_mean": np.ones(5, np.float32)}
    assert "'edm_mean' is of shape (5,)" in problem(sparse(path, whole("sdxl"), values))


@pytest.mark.parametrize("kept", [0, 4, 8, 5000, -1])
def test_a_truncated_file_is_to_be_downloaded_again(kept: int, path: Path) -> None:
    sparse(path, whole("sd15"))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(kept if kept >= 0 else size - 1)
    assert "download" in problem(path)


def test_a_header_of_64_megabytes_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        file.write((64 << 20).to_bytes(8, "little") + b"{")
        file.truncate(8 + (64 << 20))
    assert "exceeds" in problem(path)


def test_a_name_that_occurs_twice_is_refused(path: Path) -> None:
    entry = json.dumps({"dtype": "F16", "shape": [1], "data_offsets": [0, 2]})
    header = f'{{"a": {entry}, "a": {entry}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    assert "twice" in problem(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_refused_with_how_to_convert_it(
    suffix: str, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / f"fox{suffix}"
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=zipped)
    assert "safetensors.torch.save_file" in problem(path)


NAMES = sorted(small("sd2-base"))
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@settings(max_examples=25)  # a file of 1,400 tensors each
@given(
    changed=st.dictionaries(st.sampled_from(NAMES), SHAPES | st.none(), max_size=4),
    added=st.dictionaries(st.text(max_size=20) | st.sampled_from(["edm_mean", "v_pred"]), SHAPES),
    known=st.booleans(),
)
def test_any_file_is_opened_or_refused_with_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory,
    changed: dict[str, tuple[int, ...] | None],
    added: dict[str, tuple[int, ...]],
    known: bool,
) -> None:
    shapes = {**small("sd2-base"), **changed, **added}
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    sparse(path, {name: shape for name, shape in shapes.items() if shape is not None})
    like = SmallConfigs("sd2-base") if known else None
    # A name of OpenCLIP's last layer, which is not read, may well be missing.
    with contextlib.suppress(CheckpointError):
        opened = SingleFile.open(path, like=like)
        for folder in opened.tensors_of:
            tensors = opened.tensors(folder)
            assert all(tensors[n].shape == tensors.entry(n).shape for n in tensors)


# Arguments.


def test_a_file_has_no_variants(path: Path) -> None:
    with pytest.raises(InputError, match="variant: expected none with the file"):
        open_source(sparse(path, {"a": (1,)}), "fp16")


def test_a_folder_takes_nothing_that_belongs_to_files(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("heads")
    assert isinstance(open_source(folder), Checkpoint)
    with pytest.raises(InputError, match="overrides: expected none with a diffusers folder"):
        open_source(folder, overrides=Overrides(ema=True))


def test_configs_and_an_architecture_are_not_both_taken(path: Path) -> None:
    with pytest.raises(InputError, match="architecture: expected none beside configs"):
        SingleFile.open(
            sparse(path, small("sd15")), Overrides(architecture="sd15"), like=SmallConfigs("sd15")
        )


def test_a_diffusers_folder_gives_configs_and_tokenizers(
    checkpoint: Callable[[str], Path], path: Path
) -> None:
    like = Checkpoint.open(checkpoint("shapes"))
    unet = original.UnetParams(
        (64, 128, 192), 128, [[0], [1], [0]], [[0, 0], [1, 1], [0, 0]], 1, False
    )
    shapes = {
        **under(UNET, original.unet(unet)),
        **under(VAE, original.vae((32, 64, 96, 96), 1)),
        **under("cond_stage_model.transformer.", original.clip(128, 512, 3, 626)),
    }
    safetensors.numpy.save_file(original.random(shapes, np.float16), path)
    opened = SingleFile.open(path, like=like)
    assert opened.config("unet") == like.config("unet")
    assert opened.config("vae")["scaling_factor"] == like.config("vae")["scaling_factor"]
    assert opened.tokenizer("tokenizer") == like.tokenizer("tokenizer")
    assert opened.index["_class_name"] == "StableDiffusionPipeline"
    assert len(opened.tensors("unet")) == len(like.tensors("unet"))
