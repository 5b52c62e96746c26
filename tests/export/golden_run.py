"""Goldens as they lie in a bundle, and diffusers' own pipeline to hold their run against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray
from tests.conftest import read_json
from tests.export.pytorch import SAME, relative

PROMPT = "a large red circle on a blue background"


def goldens_of(bundle: Path) -> dict[str, torch.Tensor]:
    """Every golden tensor of a bundle."""
    return safetensors.torch.load_file(bundle / "golden.safetensors")


def arrays(golden: Mapping[str, torch.Tensor], prefix: str) -> dict[str, NDArray[Any]]:
    """Those below a prefix, by the rest of their names."""
    names = [name for name in golden if name.startswith(prefix)]
    return {name.removeprefix(prefix): golden[name].numpy() for name in names}


def pipeline_of(checkpoint: Path, configuration: str) -> Any:
    """diffusers' pipeline with Euler's method, which the golden run takes whatever is stated."""
    kind: Any = StableDiffusionXLPipeline if configuration == "xl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(checkpoint, low_cpu_mem_usage=False)
    config = pipeline.scheduler.config
    if configuration == "lcm":
        # Its own pipeline goes with its own scheduler alone, but forces nothing on it.
        config = read_json(checkpoint / "scheduler" / "scheduler_config.json")
    pipeline.scheduler = EulerDiscreteScheduler.from_config(config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_run(golden: Mapping[str, torch.Tensor], pipeline: Any) -> None:
    """Check every step, what the U-Net is told, and the picture."""
    steps: list[torch.Tensor] = []
    told: dict[str, torch.Tensor] = {}

    def keep(_pipe: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        steps.append(kwargs["latents"].clone())
        return {}

    def listen(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        told.update(kwargs["added_cond_kwargs"] or {})
        names = ("encoder_hidden_states", "timestep_cond")
        told.update({n: kwargs[n] for n in names if kwargs[n] is not None})

    pipeline.unet.register_forward_pre_hook(listen, with_kwargs=True)
    pipeline(
        PROMPT,
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=golden["run/latents"],
        output_type="latent",
        callback_on_step_end=keep,
    )
    assert len(steps) == 4
    for i, expected in enumerate(steps):
        assert relative(golden[f"run/steps/{i}/latents"], expected) < SAME
    names = {"encoder_hidden_states", "text_embeds", "time_ids", "timestep_cond"}
    assert set(told) == {n for n in names if f"run/{n}" in golden}
    for name, expected in told.items():
        assert relative(golden[f"run/{name}"], expected) < SAME, name
    # The picture of the run's own latents: the VAE would multiply what little they differ by.
    latents, vae = golden["run/steps/3/latents"], pipeline.vae.config
    scaled = latents / vae.scaling_factor
    if vae.latents_mean is not None:
        mean, std = (torch.tensor(n)[:, None, None] for n in (vae.latents_mean, vae.latents_std))
        scaled = latents * std / vae.scaling_factor + mean
    with torch.inference_mode():
        images = pipeline.vae.decode(scaled).sample
    assert relative(golden["run/images"], images) < SAME
    assert torch.equal(golden["run/timesteps"], pipeline.scheduler.timesteps.float())
    assert relative(golden["run/sigmas"], pipeline.scheduler.sigmas) < SAME
    assert golden["run/guidance_scale"].tolist() == [5.0]
