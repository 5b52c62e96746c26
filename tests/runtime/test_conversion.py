"""Checkpoints become bundles without PyTorch, once, in the user's cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from tests.single_file import write_single_file

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import CheckpointError
from latentrt.runtime import Pipeline, Request, Sampling, Size
from latentrt.runtime.conversion.cached import cached_bundle, cached_bundles, remove_cached
from latentrt.runtime.conversion.make import NoGraphError, make_bundle
from latentrt.runtime.conversion.options import CheckpointOptions
from latentrt.runtime.conversion.prediction import state_prediction
from latentrt.weights.checkpoint import Checkpoint

Folders = Callable[[str], Path]
REQUEST = Request("a red circle", seed=1, size=Size(64, 64), sampling=Sampling(steps=2))


def nothing(stage: str, done: int, total: int) -> None:
    del stage, done, total


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test alone."""
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(checkpoint: Folders, tmp_path: Path) -> Path:
    """A checkpoint to change."""
    return Path(shutil.copytree(checkpoint("heads"), tmp_path / "it"))


PROGRAM = """
import sys
from latentrt.runtime import Pipeline, Request, Sampling, Size
with Pipeline.open(sys.argv[1], engine="onnxruntime") as pipeline:
    sampling = Sampling(steps=2)
    result = pipeline(Request("a red circle", seed=1, size=Size(64, 64), sampling=sampling))
result.save(sys.argv[2])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_checkpoint_becomes_a_picture_without_pytorch(
    checkpoint: Folders, bundle: Folders, own: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "out.png"
    command = [sys.executable, "-c", PROGRAM, checkpoint("heads"), picture]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    loaded = set(done.stdout.split())
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint({"torch", "diffusers", "transformers", "onnx", "safetensors"})
    # The bundle that PyTorch's export made draws the same, bit for bit.
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        expected = pipeline(REQUEST).png(0)
    from PIL import Image

    found, made = (np.asarray(Image.open(p)) for p in (picture, _file(tmp_path, expected)))
    assert np.array_equal(found, made)


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "expected.png"
    path.write_bytes(content)
    return path


def test_weights_of_the_same_dtype_are_linked_and_not_copied(
    checkpoint: Folders, own: Path, tmp_path: Path
) -> None:
    make_bundle(Checkpoint.open(checkpoint("heads")), tmp_path / "bundle", progress=nothing)
    made = Bundle.open(tmp_path / "bundle", verify=True)
    source = checkpoint("heads") / "unet" / "diffusion_pytorch_model.safetensors"
    assert os.path.samefile(made.weights("unet"), source)
    assert any("through a hard link" in note for note in made.manifest.inferred)
    expected = safetensors.torch.load_file(source)
    found = made.tensors("unet")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert np.array_equal(found[name], tensor.numpy()), name


def test_a_bundle_is_made_once_and_again_when_its_checkpoint_changes(
    folder: Path, own: Path
) -> None:
    stages: list[str] = []

    def tell(stage: str, done: int, total: int) -> None:
        stages.append(stage)

    first = cached_bundle(folder, CheckpointOptions(), tell)
    assert stages
    stages.clear()
    assert cached_bundle(folder, CheckpointOptions(), tell) == first
    assert not stages
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["conv_in.weight"] = torch.full_like(tensors["conv_in.weight"], 0.25)
    path.unlink()  # as a download does; the bundle keeps a link to the file it had
    safetensors.torch.save_file(tensors, path)
    assert cached_bundle(folder, CheckpointOptions(), tell) == first
    assert stages
    assert (Bundle.open(first, verify=True).tensors("unet")["conv_in.weight"] == 0.25).all()
    (listed,) = cached_bundles()
    assert listed.path == first
    assert listed.source == str(folder)
    remove_cached(listed)
    assert cached_bundles() == []


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_weights_of_another_dtype_are_those_that_pytorch_rounds(
    checkpoint: Folders, own: Path, dtype: str
) -> None:
    found = Bundle.open(
        cached_bundle(checkpoint("heads"), CheckpointOptions(dtype), nothing)
    ).tensors("unet")
    source = checkpoint("heads") / "unet" / "diffusion_pytorch_model.safetensors"
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for name, tensor in safetensors.torch.load_file(source).items():
        expected = tensor.to(kind).float().numpy()
        assert np.array_equal(found[name].astype(np.float32), expected), name


def test_an_architecture_without_a_graph_says_what_traces_one(
    folder: Path, own: Path, tmp_path: Path
) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_head_dim": 2}))
    with pytest.raises(CheckpointError, match=r"pip install 'latentrt\[export\]'") as raised:
        make_bundle(Checkpoint.open(folder), tmp_path / "bundle", progress=nothing)
    assert isinstance(raised.value.__cause__ or raised.value, NoGraphError)
    assert not (tmp_path / "bundle").exists()


def test_a_single_file_draws_the_picture_of_its_folder_without_a_copy(
    checkpoint: Folders, bundle: Folders, own: Path, tmp_path: Path
) -> None:
    path = write_single_file(checkpoint("heads"), tmp_path / "model.safetensors")
    options = CheckpointOptions(configs=checkpoint("heads"))
    for engine in ("onnxruntime", "openvino"):
        with Pipeline.open(bundle("heads"), engine=engine) as pipeline:
            expected = np.asarray(pipeline(REQUEST).images[0])
        with Pipeline.open(path, engine=engine, checkpoint=options) as pipeline:
            assert np.array_equal(np.asarray(pipeline(REQUEST).images[0]), expected)
            made = pipeline.bundle
    assert {made.weights(name).stat().st_ino for name in made.manifest.components} == {
        path.stat().st_ino
    }


@pytest.mark.parametrize("configuration", ["lists", "xl", "ssd", "lcm"])
def test_a_single_file_of_another_family_draws_the_picture_of_its_folder(
    checkpoint: Folders, own: Path, tmp_path: Path, configuration: str
) -> None:
    folder = checkpoint(configuration)
    path = write_single_file(folder, tmp_path / "model.safetensors")
    options = CheckpointOptions(configs=folder)
    pictures: list[NDArray[np.uint8]] = []
    for opened, given in ((folder, None), (path, options)):
        with Pipeline.open(opened, engine="onnxruntime", checkpoint=given) as pipeline:
            pictures.append(np.asarray(pipeline(REQUEST).images[0]))
    assert np.array_equal(pictures[0], pictures[1])
    assert pictures[0].std() > 1


@pytest.mark.parametrize(
    ("bias", "prediction", "size"), [(0.5, "epsilon", 16), (-1.0, "v_prediction", 96)]
)
def test_the_prediction_type_is_measured_at_the_last_timestep(
    folder: Path, own: Path, tmp_path: Path, bias: float, prediction: str, size: int
) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    # A U-Net whose output is one number: 0.5, as its input, or far below it.
    tensors["conv_out.weight"] = torch.zeros_like(tensors["conv_out.weight"])
    tensors["conv_out.bias"] = torch.full_like(tensors["conv_out.bias"], bias)
    safetensors.torch.save_file(tensors, path)
    make_bundle(Checkpoint.open(folder), tmp_path / "bundle", progress=nothing)
    before = Bundle.open(tmp_path / "bundle").manifest
    state_prediction(tmp_path / "bundle")
    found = Bundle.open(tmp_path / "bundle", verify=True)
    assert found.manifest.prediction_type == prediction
    assert found.scheduler_config()["prediction_type"] == prediction
    same = prediction == "epsilon"
    assert found.manifest.sample_size == (before.sample_size if same else (size, size))
    assert any(prediction in note for note in found.manifest.inferred)


def test_a_vae_file_draws_what_a_checkpoint_with_that_vae_draws(
    checkpoint: Folders, folder: Path, own: Path
) -> None:
    other = checkpoint("heads@1") / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.copy(other, folder / "vae")
    with Pipeline.open(folder, engine="onnxruntime") as pipeline:
        expected = np.asarray(pipeline(REQUEST).images[0])
    with Pipeline.open(checkpoint("heads"), engine="onnxruntime", vae=other) as pipeline:
        assert np.array_equal(np.asarray(pipeline(REQUEST).images[0]), expected)
    with Pipeline.open(checkpoint("heads"), engine="onnxruntime") as pipeline:
        assert not np.array_equal(np.asarray(pipeline(REQUEST).images[0]), expected)
