"""Checkpoints that diffusers draws from: each is read as its own pipeline reads it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from tests.export.conftest import change_json, change_tensors, manifest_of
from tests.export.damage import Change, config, tensors, unet, write
from tests.export.pytorch import FILES, stored
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection

from latentrt.bundle.errors import CheckpointError
from latentrt.export.check import check
from latentrt.export.export import export
from latentrt.weights.checked import Checked
from latentrt.weights.clip_tokenizer import ClipTokenizer

INDEX = "model_index.json"
PREFIX = "text_model."


def change_config(path: str, change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda folder: change_json(folder / path, change)


def text_encoder_of_a_whole_clip(folder: Path) -> None:
    """A text encoder's folder that holds a whole CLIPModel, written by the library."""
    text = json.loads((folder / "text_encoder" / "config.json").read_text())
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    shutil.rmtree(folder / "text_encoder")
    whole.save_pretrained(folder / "text_encoder")


def text_encoder_with_projection(folder: Path) -> None:
    """A text encoder saved with a projection, which its pipeline does not use."""
    where = folder / "text_encoder"
    text = CLIPTextModelWithProjection.from_pretrained(where)
    text.save_pretrained(where)


def pop(path: str, *names: str) -> Change:
    return change_config(path, lambda c: [c.pop(name) for name in names])


READ: dict[str, tuple[Change, tuple[str, ...]]] = {
    "nothing changed": (lambda folder: None, ()),
    "a text encoder without architectures": (
        pop("text_encoder/config.json", "architectures"),
        ("text_encoder: read as CLIPTextModel, as model_index.json has it; its config.json names",),
    ),
    "architectures that are null": (
        config("text_encoder/config.json", architectures=None),
        ("its config.json names no class",),
    ),
    "architectures of none": (
        config("text_encoder/config.json", architectures=[]),
        ("its config.json names no class",),
    ),
    "a text encoder's file that says CLIPModel": (
        config("text_encoder/config.json", architectures=["CLIPModel"]),
        ("its config.json says 'CLIPModel'",),
    ),
    "a whole CLIPModel": (
        text_encoder_of_a_whole_clip,
        ("its config.json says 'CLIPModel'", "text_encoder: left out tensor 'logit_scale' (and "),
    ),
    "a text encoder with a projection": (
        text_encoder_with_projection,
        (
            "its config.json says 'CLIPTextModelWithProjection'",
            "text_encoder: left out tensor 'text_projection.weight'",
        ),
    ),
    "a U-Net without a class": (
        pop("unet/config.json", "_class_name"),
        ("unet: read as UNet2DConditionModel, as model_index.json has it; its config.json names",),
    ),
    "a U-Net's file of another class": (
        config("unet/config.json", _class_name="UNet3DConditionModel"),
        ("its config.json says 'UNet3DConditionModel'",),
    ),
    "a VAE's file of another class": (
        config("vae/config.json", _class_name="AutoencoderKLTemporalDecoder"),
        ("vae: read as AutoencoderKL, as model_index.json has it",),
    ),
    "a scheduler's file of another class": (
        config(INDEX, scheduler=["diffusers", "EulerAncestralDiscreteScheduler"]),
        ("scheduler_config.json names the class DDIMScheduler, model_index.json EulerAnc",),
    ),
    "tensors that no layer has": (
        tensors("unet", lambda t: t.update({"a.lora": torch.ones(1), "b.lora": torch.ones(1)})),
        ("unet: left out tensor 'a.lora' (and 1 more)",),
    ),
    "one width a block": (config("unet/config.json", cross_attention_dim=[32, 32]), ()),
    "a width that no block reads": (
        # The middle block has the last one's width.
        unet(
            cross_attention_dim=[99, 32],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        ),
        (),
    ),
    "image to image": (
        config(INDEX, _class_name="StableDiffusionImg2ImgPipeline"),
        ("pipeline: StableDiffusionImg2ImgPipeline, read as StableDiffusionPipeline",),
    ),
    "inpainting with four channels": (
        config(INDEX, _class_name="StableDiffusionInpaintPipeline"),
        ("pipeline: StableDiffusionInpaintPipeline, read",),
    ),
    "a pipeline of its own code": (
        config(INDEX, _class_name=["pipeline", "MyPipeline"]),
        ("pipeline: MyPipeline of pipeline, read as",),
    ),
    "a ControlNet and a safety checker": (
        config(
            INDEX,
            _class_name="StableDiffusionControlNetPipeline",
            controlnet=["diffusers", "ControlNetModel"],
            safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        ),
        (
            "pipeline: StableDiffusionControlNetPipeline, read as",
            "left out: safety_checker, controlnet",
        ),
    ),
}


def read(folder: Path) -> Checked:
    """A checkpoint, checked."""
    with TemporaryDirectory() as scratch:
        return check(folder, Path(scratch))


def check_same(checked: Checked, pipeline: Any) -> None:
    """Check that every tensor and the scheduler's class are those of a pipeline of diffusers."""
    for folder, part in checked.parts.items():
        expected = getattr(pipeline, folder).state_dict()
        if folder.startswith("text_encoder"):
            expected = {
                name if name.startswith(("text_projection", PREFIX)) else f"{PREFIX}{name}": tensor
                for name, tensor in expected.items()
            }
        assert set(part.names) == set(expected)
        for name, tensor in expected.items():
            found = part.tensors[name].astype(np.float32)
            np.testing.assert_array_equal(found, tensor.float().numpy())
    assert checked.scheduler["_class_name"] == type(pipeline.scheduler).__name__


@pytest.mark.parametrize("changed", READ)
def test_a_checkpoint_is_read_as_its_pipeline_reads_it_and_says_what_was_inferred(
    folder: Path, changed: str
) -> None:
    change, notes = READ[changed]
    change(folder)
    checked = read(folder)
    absent = {"safety_checker": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline.from_pretrained(folder, low_cpu_mem_usage=False, **absent)
    check_same(checked, pipeline)
    assert checked.parts["unet"].config["cross_attention_dim"] == 32
    for note in notes:
        assert [said for said in checked.notes if note in said], checked.notes
    usual = ("text_encoder: text encoder without the prefix 'text_model.'",)
    if not notes:
        assert checked.notes == usual


@pytest.mark.filterwarnings("ignore:The configuration file of the unet:FutureWarning")
@pytest.mark.parametrize(
    ("version", "size"),
    [("0.2.4", 8), ("0.8.1", [8, 16]), ("0.8.1", 65), ("0.9.0.dev0", 8), ("0.27.0", 8), (None, 8)],
)
def test_the_default_size_is_the_one_that_the_pipeline_takes(
    folder: Path, version: str | None, size: Any
) -> None:
    config("unet/config.json", _diffusers_version=version, sample_size=size)(folder)
    if version is None:
        pop("unet/config.json", "_diffusers_version")(folder)
    absent = {"safety_checker": None, "requires_safety_checker": False}
    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        folder, low_cpu_mem_usage=False, **absent
    )
    stated = pipeline.unet.config.sample_size
    checked = read(folder)
    assert checked.sample_size == ((stated, stated) if isinstance(stated, int) else tuple(stated))
    said = f"unet: sample_size {size} of an old config is read as 64, as in StableDiffusionPipeline"
    assert (said in checked.notes) is (stated != size)


def test_other_pipelines_take_the_size_that_an_old_unet_states(folder_xl: Path) -> None:
    config("unet/config.json", _diffusers_version="0.8.1")(folder_xl)
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(folder_xl, low_cpu_mem_usage=False)
    assert read(folder_xl).sample_size == (pipeline.default_sample_size,) * 2 == (8, 8)


def test_a_bundle_of_a_shifted_vae_has_no_shift(
    folder: Path, traced: Callable[[str], None], out: Path
) -> None:
    del traced
    config("vae/config.json", shift_factor=0.1159)(folder)
    export(folder, out / "bundle", golden=False)
    assert manifest_of(out / "bundle")["vae_shift"] == 0
    assert any("shift_factor" in note for note in manifest_of(out / "bundle")["inferred"])


def test_a_second_text_encoder_may_be_a_whole_clip_model(folder_xl: Path) -> None:
    config("text_encoder_2/config.json", architectures=["CLIPModel"])(folder_xl)
    config(INDEX, _class_name="StableDiffusionXLImg2ImgPipeline")(folder_xl)
    checked = read(folder_xl)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder_xl, low_cpu_mem_usage=False)
    check_same(checked, pipeline)
    assert checked.family.pipeline == "StableDiffusionXLPipeline"


@pytest.mark.parametrize("stated", [None, True, False, "absent"])
def test_empty_prompts_are_zeros_where_diffusers_has_it(folder_xl: Path, stated: Any) -> None:
    name = "force_zeros_for_empty_prompt"
    if stated == "absent":
        pop(INDEX, name)(folder_xl)
    else:
        config(INDEX, **{name: stated})(folder_xl)
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(folder_xl, low_cpu_mem_usage=False)
    assert read(folder_xl).zeros is bool(pipeline.config[name])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_are_converted_as_pytorch_converts_them(
    folder: Path, dtype: torch.dtype, traced: Callable[[str], None], out: Path
) -> None:
    del traced
    expected = stored(folder, "unet")["conv_in.weight"].to(dtype)
    change_tensors(folder, "unet", lambda t: t.update({n: v.to(dtype) for n, v in t.items()}))
    export(folder, out / "bundle", golden=False)
    found = safetensors.torch.load_file(out / "bundle" / "weights" / "unet.safetensors")
    assert torch.equal(found["conv_in.weight"], expected.float())
    name = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}[dtype]
    said = manifest_of(out / "bundle")["inferred"]
    assert f"unet: {len(found)} of {len(found)} tensors are stored in {name}" in said
    assert np.dtype(getattr(ml_dtypes, name)).itemsize == 1


def test_a_bundle_has_the_scheduler_that_the_index_names_and_the_notes(
    folder: Path, traced: Callable[[str], None], out: Path
) -> None:
    del traced
    config(INDEX, scheduler=["diffusers", "EulerAncestralDiscreteScheduler"])(folder)
    (folder / "unet" / FILES["unet"].replace(".", ".fp16.", 1)).write_bytes(b"not read")
    export(folder, out / "bundle", golden=False)
    written = json.loads((out / "bundle" / "scheduler" / "scheduler_config.json").read_text())
    assert written["_class_name"] == "EulerAncestralDiscreteScheduler"
    assert manifest_of(out / "bundle")["inferred"] == list(read(folder).notes)
    assert any("not read: diffusion_pytorch_model.fp16" in note for note in read(folder).notes)


def test_bytes_of_a_name_that_are_no_utf8_are_read(folder: Path, tmp_path: Path) -> None:
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.rename(named)
    checked = read(named)
    assert checked.source.name == "caf\ufffd"
    write("scheduler/scheduler_config.json", "{")(named)
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json: is not readable JSON"):
        read(named)


@pytest.mark.parametrize(("kind", "own"), [("CLIPTokenizer", True), ("AutoTokenizer", False)])
def test_transformers_reads_only_tokenizers_that_are_not_clips(
    folder: Path, kind: str, own: bool
) -> None:
    config(INDEX, tokenizer=["transformers", kind])(folder)
    tokenizer = read(folder).tokenizers["text_encoder"]
    assert isinstance(tokenizer, ClipTokenizer) == own
    assert tokenizer("red").shape == (1, 77)
