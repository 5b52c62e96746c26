"""Checkpoints to test with: the one that ships, and tiny random ones of other configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from hypothesis import settings
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latentrt.export.export import export

ROOT = Path(__file__).parents[1]

# Machines that are shared pause now and then; a slow example is no failure.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

_SD: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
_BLOCKS = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # SD 1.x: one number of heads, 1x1 convolutions around attention, epsilon.
    "heads": {
        "unet": {
            **_BLOCKS,
            "block_out_channels": (16, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 4,
        },
        "text": {"hidden_act": "quick_gelu"},
        "scheduler": DDIMScheduler(
            **_SD, set_alpha_to_one=False, steps_offset=1, clip_sample=False
        ),
    },
    # SD 2.x: heads as a list, linear projections, attention at two widths, v-prediction.
    "lists": {
        "unet": {
            **_BLOCKS,
            "block_out_channels": (16, 32, 48),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": [2, 4, 6],
            "use_linear_projection": True,
        },
        "text": {"hidden_act": "gelu"},
        "scheduler": EulerDiscreteScheduler(
            **_SD, prediction_type="v_prediction", timestep_spacing="trailing", steps_offset=1
        ),
    },
}


def make_checkpoint(folder: Path, configuration: str, seed: int = 0) -> Path:
    """Write a tiny random diffusers folder whose VAE has factor 8."""
    torch.manual_seed(seed)
    chosen = CONFIGURATIONS[configuration]
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models" / "shapes" / "tokenizer")
    end = len(tokenizer) - 1
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
            **chosen["text"],
        )
    )
    shape: dict[str, Any] = dict(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
    )
    vae = AutoencoderKL(**shape)
    unet = UNet2DConditionModel(**chosen["unet"])
    for module in (text, vae, unet):
        _enliven(module)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=chosen["scheduler"],
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def _enliven(module: torch.nn.Module) -> None:
    # Fresh norms are all ones and fresh biases all zeros; a graph that mixed them up would pass.
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            torch.nn.init.normal_(parameter, mean, 0.1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint by configuration, made once a session, or "shapes", which ships."""
    made: dict[str, Path] = {}

    def get(configuration: str) -> Path:
        if configuration == "shapes":
            return ROOT / "models" / "shapes"
        if configuration not in made:
            folder = tmp_path_factory.mktemp("checkpoint") / configuration
            made[configuration] = make_checkpoint(folder, configuration)
        return made[configuration]

    return get


@pytest.fixture(scope="session")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """The bundle of a tiny checkpoint or of "shapes", exported once a session."""
    made: dict[str, Path] = {}

    def get(configuration: str) -> Path:
        if configuration not in made:
            folder = tmp_path_factory.mktemp("bundle") / configuration
            export(checkpoint(configuration), folder)
            made[configuration] = folder
        return made[configuration]

    return get


def read_json(path: Path) -> Any:
    """A JSON file's content."""
    return json.loads(path.read_text())
