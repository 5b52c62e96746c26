"""ControlNets from folders and files: names and values against diffusers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from tests.controlnets import controlnet_of, saved_controlnet

from latentrt.bundle.errors import CheckpointError
from latentrt.export.control_modules import described_control
from latentrt.weights import controlnet as module
from latentrt.weights.canonical_names import canonical_names
from latentrt.weights.configs import with_defaults
from latentrt.weights.control_architectures import CONTROLNETS
from latentrt.weights.control_architectures import controlnet_of as config_of
from latentrt.weights.controlnet import ControlNetCheckpoint, is_controlnet
from latentrt.weights.ldm_names import controlnet_spelling

Checkpoints = Callable[[str], Path]


@pytest.fixture
def tiny_known(checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny ControlNet is one that a file of its widths may be."""
    unet = json.loads((checkpoint("heads") / "unet" / "config.json").read_text())
    monkeypatch.setattr(module, "CONTROLNETS", {"heads": config_of(unet)})


def original(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """A tiny ControlNet's tensors under the names of `cldm.py`."""
    spell = controlnet_spelling(1, 6)
    found = {f"{prefix}{spell(name)[0].name}": tensor for name, tensor in state.items()}
    assert len(found) == len(state)
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.mark.parametrize("name", sorted(CONTROLNETS))
def test_the_original_names_of_known_controlnets_are_those_diffusers_converts(name: str) -> None:
    config = with_defaults("controlnet", CONTROLNETS[name])
    names = canonical_names("controlnet", config)
    assert set(names) == set(described_control("controlnet", CONTROLNETS[name]))
    if name == "sdxl":  # which has no original layout
        return
    spell = controlnet_spelling(2, 6)
    stored = {f"control_model.{spell(own)[0].name}": own for own in names}
    converted: Any = convert_controlnet_checkpoint(dict(stored), config)
    assert converted == {own: own for own in names}


@pytest.mark.parametrize("prefix", ["control_model.", ""])
@pytest.mark.usefixtures("tiny_known")
def test_a_file_with_original_names_has_the_tensors_diffusers_makes_of_it(
    checkpoint: Checkpoints, tmp_path: Path, prefix: str
) -> None:
    made = controlnet_of(checkpoint("heads"))
    made.save_pretrained(tmp_path / "folder")
    path = tmp_path / "control.safetensors"
    safetensors.torch.save_file(original(made.state_dict(), prefix), path)
    theirs: Any = ControlNetModel.from_single_file(str(path), config=str(tmp_path / "folder"))
    ours = ControlNetCheckpoint.open(path)
    state = theirs.state_dict()
    assert set(ours.tensors) == set(state)
    for name, tensor in state.items():
        assert np.array_equal(ours.tensors[name], tensor.numpy())
    assert is_controlnet(path)


@pytest.mark.usefixtures("tiny_known")
def test_a_file_with_diffusers_names_has_the_tensors_of_the_folder(
    checkpoint: Checkpoints, tmp_path: Path
) -> None:
    folder = saved_controlnet(checkpoint("heads"), tmp_path / "folder")
    file = folder / "diffusion_pytorch_model.safetensors"
    ours, theirs = ControlNetCheckpoint.open(file), ControlNetCheckpoint.open(folder)
    assert set(ours.tensors) == set(theirs.tensors)
    assert all(np.array_equal(ours.tensors[n], theirs.tensors[n]) for n in theirs.tensors)
    assert is_controlnet(folder)
    assert is_controlnet(file)


def test_a_folder_of_another_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "T2IAdapter"}')
    with pytest.raises(CheckpointError, match="'T2IAdapter' is not supported; ControlNetModel is"):
        ControlNetCheckpoint.open(tmp_path)


def test_a_whole_checkpoint_is_no_controlnet(checkpoint: Checkpoints) -> None:
    assert not is_controlnet(checkpoint("heads"))
    with pytest.raises(CheckpointError, match="is a checkpoint, not a ControlNet"):
        ControlNetCheckpoint.open(checkpoint("heads"))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    safetensors.torch.save_file({"lora_unet_x.alpha": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="is not a ControlNet: its tensors are lora_unet_x"):
        ControlNetCheckpoint.open(path)


def test_a_file_of_unknown_widths_says_them_and_what_to_do(
    checkpoint: Checkpoints, tmp_path: Path
) -> None:
    folder = saved_controlnet(checkpoint("heads"), tmp_path / "folder")
    file = folder / "diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match=r"levels of \[16, 32\] channels.*diffusers folder"):
        ControlNetCheckpoint.open(file)


@pytest.mark.usefixtures("tiny_known")
def test_a_tensor_that_nothing_reads_is_refused(checkpoint: Checkpoints, tmp_path: Path) -> None:
    state = controlnet_of(checkpoint("heads")).state_dict()
    path = tmp_path / "union.safetensors"
    safetensors.torch.save_file({**state, "task_embedding": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="'task_embedding' is of another kind of ControlNet"):
        ControlNetCheckpoint.open(path)


def test_a_missing_tensor_is_named(checkpoint: Checkpoints, tmp_path: Path) -> None:
    folder = saved_controlnet(checkpoint("heads"), tmp_path / "folder")
    file = folder / "diffusion_pytorch_model.safetensors"
    state = safetensors.torch.load_file(file)
    del state["controlnet_mid_block.bias"]
    safetensors.torch.save_file(state, file)
    opened = ControlNetCheckpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"tensor 'controlnet_mid_block\.bias' is missing"):
        opened.part(described_control)
