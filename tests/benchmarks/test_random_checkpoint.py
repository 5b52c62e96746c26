"""A random checkpoint in files: what exporting it stores, and what diffusers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from random_checkpoint import write

from latentrt.export import synthetic
from latentrt.export.synthetic import SyntheticCheckpoint
from latentrt.weights.checkpoint import Checkpoint

TINY: dict[str, Any] = {
    "model_index": {"_class_name": "StableDiffusionPipeline"},
    "text_encoder": {
        "vocab_size": 520,
        "max_position_embeddings": 77,
        "architectures": ["CLIPTextModel"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
        "bos_token_id": 518,
        "eos_token_id": 519,
        "pad_token_id": 519,
    },
    "tokenizer": {"pad_token": "<|endoftext|>"},
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 8,
        "block_out_channels": [16, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 8,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    },
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a random checkpoint of hardly any size."""
    monkeypatch.setattr(synthetic, "ARCHITECTURES", {"tiny": TINY})
    return "random:tiny"


def test_a_random_checkpoint_in_files_has_the_values_that_exporting_it_stores(
    tiny: str, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    write(tiny, folder)
    source, written = SyntheticCheckpoint.named(tiny), Checkpoint.open(folder)
    for part in ("text_encoder", "unet", "vae"):
        expected, tensors = source.tensors(part), written.tensors(part)
        assert set(tensors) == set(expected)
        for name in expected:
            assert np.array_equal(tensors[name], expected[name]), name


def test_diffusers_loads_a_random_checkpoint_whole(tiny: str, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write(tiny, folder)
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    source = SyntheticCheckpoint.named(tiny)
    for part in ("text_encoder", "unet", "vae"):
        tensors = source.tensors(part)
        state = getattr(pipe, part).state_dict()
        names = {name.removeprefix("text_model."): name for name in tensors}
        assert {name.removeprefix("text_model.") for name in state} == set(names)
        for name, tensor in state.items():
            expected = tensors[names[name.removeprefix("text_model.")]]
            assert torch.equal(tensor, torch.from_numpy(expected)), name
    assert pipe.tokenizer.model_max_length == 77
    assert pipe.scheduler.config.steps_offset == 1


def test_a_random_checkpoint_is_written_once(tiny: str, tmp_path: Path) -> None:
    write(tiny, tmp_path / "tiny")
    (tmp_path / "tiny" / "mark").touch()
    write(tiny, tmp_path / "tiny")
    assert (tmp_path / "tiny" / "mark").exists()
