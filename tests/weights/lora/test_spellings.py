"""Keys of LoRA files in the wild, each as a trainer writes it, and the tensor that it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from tests.conftest import CONFIGURATIONS
from tests.weights.lora.files import noise, save
from tests.weights.lora.layers import base_of, layers_of

from latentrt.bundle.errors import WeightsError
from latentrt.weights.lora.changed import changed_tensors
from latentrt.weights.lora.lora import Lora
from latentrt.weights.lora.spellings import ENDINGS
from latentrt.weights.lora.unet_blocks import original_names

Get = Callable[[str], Path]

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
QUERY = ("unet", f"{BLOCK}.attn1.to_q")
OUT = ("unet", f"{BLOCK}.attn2.to_out.0")
TEXT = ("text_encoder", "text_model.encoder.layers.1.self_attn.out_proj")
KOHYA, PEFT = (("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight"))
DEFAULT = ("lora_B.default.weight", "lora_A.default.weight")
OLD = ("up.weight", "down.weight")

# Configuration, folder, layer, beginning and endings of a key as it lies in files.
WILD = [
    ("heads", *QUERY, f"lora_unet_{BLOCK.replace('.', '_')}_attn1_to_q", ".", KOHYA),
    ("heads", *QUERY, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", ".", KOHYA),
    ("heads", *QUERY, f"lycoris_{BLOCK.replace('.', '_')}_attn1_to_q", ".", KOHYA),
    ("heads", *QUERY, f"unet.{BLOCK}.attn1.to_q", ".", PEFT),
    ("heads", *QUERY, f"unet.{BLOCK}.attn1.to_q", ".", DEFAULT),
    ("heads", *QUERY, f"unet.{BLOCK}.attn1.processor.to_q", "_lora.", OLD),
    ("heads", *QUERY, f"{BLOCK}.attn1.processor.to_q", "_lora.", OLD),
    ("heads", *QUERY, f"unet.{BLOCK}.attn1.to_q", ".lora.", OLD),
    ("heads", *QUERY, f"base_model.model.{BLOCK}.attn1.to_q", ".", PEFT),
    (
        "heads",
        *QUERY,
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q",
        ".",
        KOHYA,
    ),
    ("heads", *OUT, f"lora_unet_{BLOCK.replace('.', '_')}_attn2_to_out_0", ".", KOHYA),
    ("heads", *OUT, f"unet.{BLOCK}.attn2.processor.to_out", "_lora.", OLD),
    ("heads", *OUT, f"unet.{BLOCK}.attn2.to_out", ".", PEFT),
    ("heads", *TEXT, "lora_te_text_model_encoder_layers_1_self_attn_out_proj", ".", KOHYA),
    ("heads", *TEXT, "text_encoder.text_model.encoder.layers.1.self_attn.out_proj", ".", PEFT),
    ("heads", *TEXT, "text_encoder.encoder.layers.1.self_attn.out_proj", ".", PEFT),
    (
        "heads",
        *TEXT,
        "text_encoder.text_model.encoder.layers.1.self_attn.out_proj",
        ".lora_linear_layer.",
        OLD,
    ),
    (
        "heads",
        *TEXT,
        "text_encoder.text_model.encoder.layers.1.self_attn.to_out",
        "_lora.",
        OLD,
    ),
    ("heads", *TEXT, "base_model.model.text_model.encoder.layers.1.self_attn.out_proj", ".", PEFT),
    ("xl", *TEXT, "lora_te1_text_model_encoder_layers_1_self_attn_out_proj", ".", KOHYA),
    (
        "xl",
        "text_encoder_2",
        "text_model.encoder.layers.4.mlp.fc1",
        "lora_te2_text_model_encoder_layers_4_mlp_fc1",
        ".",
        KOHYA,
    ),
    (
        "xl",
        "text_encoder_2",
        "text_projection",
        "text_encoder_2.text_projection",
        ".lora_linear_layer.",
        OLD,
    ),
    # Both text encoders have a layer of this name; the widths tell which is meant.
    (
        "xl",
        "text_encoder_2",
        "text_model.encoder.layers.0.mlp.fc1",
        "base_model.model.text_model.encoder.layers.0.mlp.fc1",
        ".",
        PEFT,
    ),
    (
        "xl",
        "unet",
        "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_v",
        "lora_unet_input_blocks_3_1_transformer_blocks_1_attn2_to_v",
        ".",
        KOHYA,
    ),
    (
        "xl",
        "unet",
        "down_blocks.0.downsamplers.0.conv",
        "lora_unet_input_blocks_2_0_op",
        ".",
        KOHYA,
    ),
    ("xl", "unet", "up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_1_2_conv", ".", KOHYA),
    ("xl", "unet", "add_embedding.linear_2", "lora_unet_label_emb_0_2", ".", KOHYA),
    (
        "xl",
        "unet",
        "mid_block.resnets.1.conv2",
        "lora_unet_middle_block_2_out_layers_3",
        ".",
        KOHYA,
    ),
]


@pytest.mark.parametrize(
    ("configuration", "folder", "layer", "stem", "between", "ends"),
    WILD,
    ids=[f"{w[0]}-{w[3]}{w[4]}{w[5][0]}" for w in WILD],
)
def test_a_key_changes_the_layer_that_its_trainer_meant(
    configuration: str,
    folder: str,
    layer: str,
    stem: str,
    between: str,
    ends: tuple[str, str],
    checkpoint: Get,
    tmp_path: Path,
) -> None:
    base = base_of(checkpoint(configuration))
    weight = base[folder][f"{layer}.weight"]
    up, down = noise(weight.shape[0], 2), noise(2, *weight.shape[1:], seed=1)
    if weight.ndim > 2:
        up = up[..., None, None]
    keys = [f"{stem}{between}{end}" for end in ends]
    path = save(tmp_path / "it.safetensors", dict(zip(keys, (up, down), strict=True)))
    found = changed_tensors(base, [Lora(path)])
    assert {f: set(of) for f, of in found.items()} == {folder: {f"{layer}.weight"}}
    product = up.reshape(len(up), 2) @ down.reshape(2, -1)
    np.testing.assert_allclose(
        found[folder][f"{layer}.weight"], weight + product.reshape(weight.shape), atol=1e-5
    )


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl"])
def test_original_names_are_those_that_diffusers_converts_back(
    configuration: str, checkpoint: Get
) -> None:
    # The converter moves tensors by name; a number in each tells where it went.
    kinds: Any = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.LayerNorm, torch.nn.GroupNorm)
    layers = list(layers_of(checkpoint(configuration), "unet", kinds))
    originals = original_names(layers)
    assert set(originals) == set(layers)
    tensors = [(layer, end) for layer in layers for end in ("weight", "bias")]
    numbers = {f"{layer}.{end}": torch.tensor(n) for n, (layer, end) in enumerate(tensors)}
    stored = {
        f"model.diffusion_model.{originals[layer]}.{end}": numbers[f"{layer}.{end}"]
        for layer, end in tensors
    }
    config = dict(UNet2DConditionModel(**CONFIGURATIONS[configuration]["unet"]).config)
    config["num_class_embeds"] = None
    converted = convert_ldm_unet_checkpoint(stored, config)
    assert converted == numbers


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_no_ending_is_unknown_or_read_as_another(
    ending: str, checkpoint: Get, tmp_path: Path
) -> None:
    # Alone it is no whole kind; the error names its role.
    key = f"lora_unet_mid_block_attentions_0_proj_in{ending}"
    path = save(tmp_path / "it.safetensors", {key: noise(1)})
    if ENDINGS[ending] in ("diff_b", "b_norm", "diff", "w_norm"):
        expected = f"{ENDINGS[ending]} is "
    else:
        expected = ENDINGS[ending]
    with pytest.raises(WeightsError, match=expected):
        changed_tensors(base_of(checkpoint("heads")), [Lora(path)])


def test_a_name_that_fits_two_text_encoders_is_refused_naming_both(
    checkpoint: Get, tmp_path: Path
) -> None:
    base = base_of(checkpoint("xl"))
    layer = "text_model.encoder.layers.0.layer_norm1"
    same = {"text_encoder": base["text_encoder"], "text_encoder_2": base["text_encoder"]}
    path = save(tmp_path / "it.safetensors", {f"base_model.model.{layer}.w_norm": noise(32)})
    with pytest.raises(WeightsError, match="fits text_encoder and text_encoder_2: put the comp"):
        changed_tensors(same, [Lora(path)])
    assert set(changed_tensors(base, [Lora(path)])) == {"text_encoder"}


def test_a_tensor_spelt_twice_is_refused_naming_both_keys(checkpoint: Get, tmp_path: Path) -> None:
    names = (f"unet.{BLOCK}.attn2.to_out.lora_A.weight", f"{BLOCK}.attn2.to_out.0.lora_A.weight")
    path = save(tmp_path / "it.safetensors", {name: noise(2, 16) for name in names})
    with pytest.raises(WeightsError, match="are the same tensor") as caught:
        changed_tensors(base_of(checkpoint("heads")), [Lora(path)])
    assert all(name in str(caught.value) for name in names)


def test_keys_that_match_nothing_are_refused_with_the_nearest_names(
    checkpoint: Get, tmp_path: Path
) -> None:
    base = base_of(checkpoint("heads"))
    prefix = f"lora_unet_{BLOCK.replace('.', '_')}_attn1"
    tensors = {
        f"{prefix}_to_q.lora_up.weight": noise(16, 2),
        f"{prefix}_to_q.lora_down.weight": noise(2, 16),
        f"{prefix}_to_qq.lora_down.weight": noise(2, 16),
    }
    path = save(tmp_path / "it.safetensors", tensors)
    with pytest.raises(WeightsError) as caught:
        changed_tensors(base, [Lora(path)])
    problem = caught.value.problem
    assert f"1 of 3 keys match no layer: '{prefix}_to_qq.lora_down.weight'" in problem
    assert f"the nearest names are {prefix}_to_q.lora_down.weight, " in problem
    assert problem.endswith("partial=True applies the other 2")
    found = changed_tensors(base, [Lora(path, partial=True)])
    assert set(found["unet"]) == {f"{BLOCK}.attn1.to_q.weight"}
    assert found["unet"].notes == (
        f"it.safetensors: match no layer: {prefix}_to_qq.lora_down.weight",
    )


def test_a_file_of_which_nothing_matches_is_refused_in_part_too(
    checkpoint: Get, tmp_path: Path
) -> None:
    path = save(tmp_path / "it.safetensors", {"a.lora_up.weight": noise(2, 2)})
    with pytest.raises(WeightsError, match="1 of 1 keys match no layer: 'a"):
        changed_tensors(base_of(checkpoint("heads")), [Lora(path, partial=True)])


@pytest.mark.parametrize(
    ("key", "kind"),
    [("oft_blocks", "OFT"), ("on_input", "IA3"), ("lora_embedding_A", "a LoRA of a token table")],
)
def test_kinds_that_are_not_supported_are_named(
    key: str, kind: str, checkpoint: Get, tmp_path: Path
) -> None:
    tensors = {f"lora_unet_conv_in.{key}": noise(2, 2)}
    path = save(tmp_path / "it.safetensors", tensors)
    with pytest.raises(WeightsError, match=f"is {kind}, which is not supported"):
        changed_tensors(base_of(checkpoint("heads")), [Lora(path)])


@pytest.mark.parametrize(
    ("key", "width", "metadata", "family"),
    [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, {}, "Diffusion XL"),
        (f"lora_unet_{BLOCK.replace('.', '_')}_attn2_to_k", 768, {}, "Diffusion 1.x"),
        (f"lora_unet_{BLOCK.replace('.', '_')}_attn2_to_k", 1024, {}, "Diffusion 2.x"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280, {}, "Diffusion XL"),
        ("lora_unet_double_blocks_0_img_attn_qkv", 3072, {}, "FLUX"),
        ("x", 8, {"ss_base_model_version": "sdxl_base_v1-0"}, "Diffusion XL"),
        ("x", 8, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "Diffusion 1.x"),
    ],
)
def test_a_lora_of_another_family_is_named(
    key: str,
    width: int,
    metadata: dict[str, str],
    family: str,
    checkpoint: Get,
    tmp_path: Path,
) -> None:
    tensors = {f"{key}.lora_up.weight": noise(16, 2), f"{key}.lora_down.weight": noise(2, width)}
    path = save(tmp_path / "it.safetensors", tensors, metadata)
    expected = f"is a LoRA for (Stable )?{family}; this model is a model with text of width 32"
    with pytest.raises(WeightsError, match=expected):
        changed_tensors(base_of(checkpoint("heads")), [Lora(path)])
