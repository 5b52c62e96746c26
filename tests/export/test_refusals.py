"""Checkpoints and destinations that are refused: by name, before tracing, leaving nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.export.conftest import change_json, change_tensors
from tests.export.damage import (
    Change,
    config,
    pickle,
    remove,
    set_value,
    tensors,
    truncate,
    unet,
    vae,
    write,
)

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.export.export import export

Bundles = Callable[[str], Path]


CONV = "conv_in.weight"
FC1 = ("encoder.layers.0.mlp.fc1.weight",)
NORM = "encoder.layers.1.layer_norm2.bias"
DECODER = "decoder.conv_out.bias"
FINITE = "holds a value that is not finite"
BIG = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 48,
}

REFUSED: dict[str, tuple[Change, str]] = {
    "a missing tensor": (
        tensors("unet", lambda t: t.pop(CONV)),
        "it/unet: tensor 'conv_in.weight' is missing",
    ),
    "missing tensors": (
        tensors("vae", lambda t: [t.pop(DECODER), t.pop("decoder.conv_out.weight")]),
        "it/vae: tensor 'decoder.conv_out.bias' is missing (and 1 more)",
    ),
    "a wrong shape": (
        tensors("unet", lambda t: t.update({CONV: torch.zeros(16, 4, 1, 1)})),
        "it/unet: tensor 'conv_in.weight' is (16, 4, 1, 1), expected (16, 4, 3, 3)",
    ),
    "a transposed shape": (
        tensors("text_encoder", lambda t: t.update({n: t[n].T.contiguous() for n in FC1})),
        "tensor 'text_model.encoder.layers.0.mlp.fc1.weight' is (32, 64), expected (64, 32)",
    ),
    "a NaN": (
        tensors("unet", set_value(CONV, float("nan"))),
        f"it/unet: tensor 'conv_in.weight' {FINITE}",
    ),
    "an infinity": (
        tensors("vae", set_value(DECODER, float("inf"))),
        f"it/vae: tensor 'decoder.conv_out.bias' {FINITE}",
    ),
    "a negative infinity": (
        tensors("text_encoder", set_value(NORM, float("-inf"))),
        f"it/text_encoder: tensor 'text_model.{NORM}' {FINITE}",
    ),
    "a NaN in float16": (
        tensors("unet", set_value(CONV, float("nan"), torch.float16)),
        f"tensor 'conv_in.weight' {FINITE}",
    ),
    "a NaN in bfloat16": (
        tensors("unet", set_value(CONV, float("nan"), torch.bfloat16)),
        f"tensor 'conv_in.weight' {FINITE}",
    ),
    "an infinity in bfloat16": (
        tensors("unet", set_value(CONV, float("inf"), torch.bfloat16)),
        f"tensor 'conv_in.weight' {FINITE}",
    ),
    "a value beyond float32": (
        tensors("unet", set_value(CONV, 1e39, torch.float64)),
        "tensor 'conv_in.weight' does not fit into float32",
    ),
    "an integer tensor": (
        tensors("unet", lambda t: t.update({CONV: t[CONV].to(torch.int32)})),
        "it/unet: tensor 'conv_in.weight' is int32, expected a float",
    ),
    "a boolean tensor": (
        tensors("vae", lambda t: t.update({DECODER: t[DECODER] > 0})),
        "it/vae: tensor 'decoder.conv_out.bias' is bool, expected a float",
    ),
    "another pipeline": (
        config("model_index.json", _class_name="FluxPipeline"),
        "model_index.json: architecture 'FluxPipeline' is not supported; StableDiffusionPipeline, "
        "StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, "
        "LatentConsistencyModelPipeline are",
    ),
    "no pipeline": (
        write("model_index.json", "{}"),
        "it/model_index.json: architecture None is not supported",
    ),
    "another U-Net": (
        config("model_index.json", unet=["diffusers", "UNet3DConditionModel"]),
        "it/model_index.json: unet: architecture 'UNet3DConditionModel' is not supported; "
        "UNet2DConditionModel is",
    ),
    "another VAE": (
        config("model_index.json", vae=["diffusers", "AutoencoderTiny"]),
        "it/model_index.json: vae: architecture 'AutoencoderTiny' is not supported; Autoencoder",
    ),
    "another text encoder": (
        config("model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
        "it/model_index.json: text_encoder: architecture 'T5EncoderModel' is not supported",
    ),
    "a text encoder that projects": (
        config("model_index.json", text_encoder=["transformers", "CLIPTextModelWithProjection"]),
        "text_encoder: architecture 'CLIPTextModelWithProjection' is not supported; CLIPTextModel",
    ),
    "a U-Net of the checkpoint's own code": (
        config("model_index.json", unet=["my_unet", "UNet2DConditionModel"]),
        "it/model_index.json: unet is a UNet2DConditionModel of 'my_unet'; classes of diffusers",
    ),
    "a part that is no pair": (
        config("model_index.json", vae="AutoencoderKL"),
        "it/model_index.json: vae is 'AutoencoderKL', expected a library and a class",
    ),
    "a class that nothing lists": (
        lambda folder: [
            config("unet/config.json", _class_name="UNet3DConditionModel")(folder),
            change_json(folder / "model_index.json", lambda c: c.pop("unet")),
        ],
        "it/unet/config.json: unet: architecture 'UNet3DConditionModel' is not supported",
    ),
    "a pipeline of its own code with other parts": (
        lambda folder: [
            config("model_index.json", _class_name=["pipeline", "MyPipeline"])(folder),
            change_json(folder / "model_index.json", lambda c: c.pop("vae")),
        ],
        "it/model_index.json: architecture 'MyPipeline' is not supported",
    ),
    "quantized weights": (
        config("unet/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "it/unet/config.json: quantization_config: quantized weights are not supported",
    ),
    "weights with scales": (
        tensors("unet", lambda t: t.update({"conv_in.scale_weight": torch.ones(1)})),
        "it/unet: tensor 'conv_in.scale_weight' belongs to quantized weights",
    ),
    "widths that differ": (
        unet(
            cross_attention_dim=[32, 48],
            down_block_types=["CrossAttnDownBlock2D"] * 2,
            up_block_types=["CrossAttnUpBlock2D"] * 2,
        ),
        "it/unet: cross_attention_dim [32, 48] but text of width 32",
    ),
    "a text encoder that masks": (
        config("text_encoder/config.json", use_attention_mask=True),
        "it/text_encoder/config.json: use_attention_mask is True: masks of text are not supported",
    ),
    "a sample size that is none": (
        config("unet/config.json", sample_size=[8, "x"]),
        "it/unet/config.json: sample_size is [8, 'x'], expected one or two whole numbers",
    ),
    "no scaling factor": (
        config("vae/config.json", scaling_factor=None),
        "it/vae: scaling_factor is None, expected a number",
    ),
    "a VAE of four colours": (vae(in_channels=4), "it/vae: in_channels is 4, expected 3"),
    "a scheduler that nothing draws with": (
        config("model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        "it/scheduler/scheduler_config.json: scheduler class in model_index.json: expected one of",
    ),
    "a beta schedule that is none": (
        config("scheduler/scheduler_config.json", beta_schedule="wavy"),
        "it/scheduler/scheduler_config.json: ",
    ),
    "a U-Net for an unknown task": (
        unet(in_channels=6),
        "it/unet: U-Net takes 6 channels, the VAE has 4: supported are text to image, depth, "
        "pix2pix and inpainting, with 4, 5, 8 and 9 channels",
    ),
    "a U-Net that predicts variances": (
        unet(out_channels=8),
        "it/unet: out_channels is 8, the VAE has 4",
    ),
    "a U-Net with more conditions": (unet(**BIG), "it/unet: addition_embed_type is 'text_time'"),
    "only the config of one": (
        config("unet/config.json", **BIG),
        "it/unet: addition_embed_type is 'text_time'",
    ),
    "a U-Net that is not distilled": (
        config("model_index.json", _class_name="LatentConsistencyModelPipeline"),
        "it/unet: time_cond_proj_dim is None: LatentConsistencyModelPipeline needs it",
    ),
    "a part that is null": (
        config("model_index.json", tokenizer=[None, None]),
        "it/model_index.json: tokenizer is null: only whole checkpoints are supported",
    ),
    "a U-Net with classes": (unet(num_class_embeds=10), "it/unet: num_class_embeds is 10"),
    "a U-Net for another width of text": (
        unet(cross_attention_dim=48),
        "it/unet: cross_attention_dim 48 but text of width 32",
    ),
    "an unknown block": (
        config("unet/config.json", down_block_types=["DownBlock2D", "SidewaysBlock2D"]),
        "it/unet/config.json: is not a config of UNet2DConditionModel: ValueError: Sideways",
    ),
    "blocks of another number": (
        config("unet/config.json", block_out_channels=[16]),
        "it/unet/config.json: is not a config of UNet2DConditionModel: ",
    ),
    "groups that do not divide": (
        config("vae/config.json", norm_num_groups=7),
        "it/vae/config.json: is not a config of AutoencoderKL: ",
    ),
    "heads that do not divide": (
        config("text_encoder/config.json", num_attention_heads=5),
        "it/text_encoder/config.json: is not a config of CLIPTextModel: ",
    ),
    "an unknown activation": (
        config("text_encoder/config.json", hidden_act="wobble"),
        "it/text_encoder/config.json: is not a config of CLIPTextModel: KeyError: 'wobble'",
    ),
    "malformed config": (write("unet/config.json", "{"), "it/unet/config.json: is not readable"),
    "no tokenizer": (remove("tokenizer"), "it/tokenizer: has neither tokenizer.json nor vocab"),
    "no tokenizer.json": (remove("tokenizer/tokenizer.json"), "it/tokenizer: has neither tok"),
    "malformed tokenizer": (
        write("tokenizer/tokenizer.json", '{"version": "1.0"}'),
        "it/tokenizer: unreadable: ",
    ),
    "no scheduler": (remove("scheduler"), "it/scheduler/scheduler_config.json: is missing"),
    "malformed scheduler": (
        write("scheduler/scheduler_config.json", "[]"),
        "it/scheduler/scheduler_config.json: is not a JSON object",
    ),
    "no VAE": (remove("vae"), "it/vae/config.json: is missing"),
    "no weights": (
        remove("unet/diffusion_pytorch_model.safetensors"),
        "it/unet/diffusion_pytorch_model.safetensors: is missing",
    ),
    "no model_index.json": (remove("model_index.json"), "it: is not a diffusers folder"),
    "no checkpoint": (lambda folder: shutil.rmtree(folder), "it: no such checkpoint folder"),
    "truncated weights": (
        truncate,
        "it/vae/diffusion_pytorch_model.safetensors: is truncated: tensors end at",
    ),
    "pickled weights": (
        pickle,
        "it/unet/diffusion_pytorch_model.bin: a pickled file runs code when it is loaded",
    ),
}


REFUSED_XL: dict[str, tuple[Change, str]] = {
    "a refiner's U-Net": (
        unet("xl", projection_class_embeddings_input_dim=24 + 5 * 8),
        "it/unet: projection_class_embeddings_input_dim 64 but pooled text of width 24 and 6 sizes "
        "of width 8",
    ),
    "no first text encoder": (
        config("model_index.json", text_encoder=[None, None]),
        "it/model_index.json: text_encoder is null: only whole checkpoints are supported",
    ),
    "no second tokenizer": (
        config("model_index.json", tokenizer_2=[None, None]),
        "it/model_index.json: tokenizer_2 is null",
    ),
    "a U-Net that takes no sizes": (
        unet("xl", addition_embed_type=None),
        "it/unet: addition_embed_type is None: this kind of U-Net is not supported",
    ),
    "a U-Net that takes pictures": (
        config("unet/config.json", encoder_hid_dim=16, encoder_hid_dim_type="image_proj"),
        "it/unet: encoder_hid_dim is 16: this kind of U-Net is not supported",
    ),
    "a pipeline with one text encoder": (
        config("model_index.json", _class_name="StableDiffusionPipeline"),
        "it/unet: addition_embed_type is 'text_time'",
    ),
    "a U-Net for one text encoder": (
        unet("xl", cross_attention_dim=40),
        "it/unet: cross_attention_dim 40 but text of width 72",
    ),
    "a second text encoder that does not project": (
        config("model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
        "it/model_index.json: text_encoder_2: architecture 'CLIPTextModel' is not supported; "
        "CLIPTextModelWithProjection is",
    ),
    "a missing projection": (
        tensors("text_encoder_2", lambda t: t.pop("text_projection.weight")),
        "it/text_encoder_2: tensor 'text_projection.weight' is missing",
    ),
    "no files of the second tokenizer": (
        remove("tokenizer_2"),
        "it/tokenizer_2: has neither tokenizer.json nor vocab",
    ),
    "tokenizers of two lengths": (
        config("tokenizer_2/tokenizer_config.json", model_max_length=50),
        "it: its tokenizers' lengths differ: 50, 77",
    ),
    "a choice that is none": (
        config("model_index.json", force_zeros_for_empty_prompt="yes"),
        "it/model_index.json: force_zeros_for_empty_prompt is 'yes', expected true or false",
    ),
    "a mean of too few channels": (
        config("vae/config.json", latents_mean=[0.0] * 3, latents_std=[1.0] * 4),
        "it/vae: latents_mean is [0.0, 0.0, 0.0], expected 4 numbers",
    ),
    "a deviation that is no number": (
        config("vae/config.json", latents_mean=[0.0] * 4, latents_std=[1.0, 1.0, 1.0, "x"]),
        "it/vae: latents_std is [1.0, 1.0, 1.0, 'x'], expected 4 numbers",
    ),
}


def check_refused(folder: Path, out: Path, problem: str) -> None:
    """Check that nothing but the error comes of an export."""
    with pytest.raises(CheckpointError) as caught:
        export(folder, out / "bundle")
    assert problem in str(caught.value)
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("damage", REFUSED)
def test_a_checkpoint_that_cannot_be_exported_is_refused_by_name_and_leaves_nothing(
    folder: Path, out: Path, damage: str
) -> None:
    change, problem = REFUSED[damage]
    change(folder)
    check_refused(folder, out, problem)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("damage", REFUSED_XL)
def test_an_incomplete_sdxl_base_is_refused_by_name_and_leaves_nothing(
    folder_xl: Path, out: Path, damage: str
) -> None:
    change, problem = REFUSED_XL[damage]
    change(folder_xl)
    check_refused(folder_xl, out, problem)


@pytest.mark.usefixtures("untraced")
def test_a_value_beyond_float16_is_refused_in_float16(folder: Path, out: Path) -> None:
    change_tensors(folder, "unet", set_value(CONV, 65_520.0))  # the first that rounds to infinity
    with pytest.raises(CheckpointError, match=r"'conv_in\.weight' does not fit into float16"):
        export(folder, out / "bundle", dtype="fp16")
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("untraced")
def test_a_refused_checkpoint_leaves_the_bundle_it_was_to_replace(
    bundle: Bundles, folder: Path, out: Path
) -> None:
    shutil.copytree(bundle("heads"), out / "bundle")
    change_tensors(folder, "unet", set_value(CONV, float("nan")))
    with pytest.raises(CheckpointError, match=FINITE):
        export(folder, out / "bundle", force=True)
    assert [p.name for p in out.iterdir()] == ["bundle"]
    Bundle.open(out / "bundle", verify=True)


@pytest.mark.usefixtures("untraced")
def test_a_destination_that_exists_is_refused_before_the_checkpoint_is_read(out: Path) -> None:
    with pytest.raises(InputError, match="destination: expected a path that does not exist"):
        export("no-such-checkpoint", out)


@pytest.mark.usefixtures("untraced")
def test_force_does_not_replace_a_folder_of_something_else(folder: Path, out: Path) -> None:
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="destination: expected a bundle or nothing, got"):
        export(folder, out, force=True)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("dtype", ["int8", "float32", ""])
def test_an_unknown_dtype_is_refused_with_the_known(folder: Path, out: Path, dtype: str) -> None:
    with pytest.raises(InputError, match=f"dtype: expected one of fp32, fp16, bf16, got '{dtype}'"):
        export(folder, out / "bundle", dtype=dtype)
    assert list(out.iterdir()) == []


def test_an_unknown_random_checkpoint_is_refused_with_the_known(out: Path) -> None:
    with pytest.raises(
        InputError, match=r"one of random:sd15, random:lcm, random:sd2-base, .*'random:x'"
    ):
        export("random:x", out / "bundle")
    assert list(out.iterdir()) == []
