"""Files that PEFT and diffusers write or read give the weights that these libraries compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from diffusers import DiffusionPipeline
from tests.weights.lora.layers import (
    LYCORIS,
    base_of,
    canonical,
    lycoris_file,
    model_of,
    relative,
)

from latentrt.weights.lora.changed import changed_tensors
from latentrt.weights.lora.lora import Lora

# Sums of float32 in another order.
ROUNDING = 1e-6

Get = Callable[[str], Path]

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{beginning}")
    for beginning in (
        "`is_gradient_checkpointing` is deprecated",  # PEFT 0.21 under transformers 5
        "The following (rank|alpha)_pattern keys did not match",  # those of the other component
        "Already found a `peft_config` attribute",  # of a second adapter
        "Adapter .* already exists",
    )
]

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "q_proj", "v_proj", "fc1"]
CONVOLUTIONS = ["conv1", "conv_in", "conv_out", "proj_in", "conv_shortcut"]
CONFIGURATIONS: Mapping[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(r=3, lora_alpha=5, target_modules=ATTENTION + CONVOLUTIONS),
    "patterns": peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=ATTENTION,
        rank_pattern={"to_q": 5, "q_proj": 2},
        alpha_pattern={"to_v": 7, "attn2.to_k": 2, "fc1": 1},
    ),
    "stabilized": peft.LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION, use_rslora=True),
    "dora": peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=ATTENTION + CONVOLUTIONS, use_dora=True
    ),
    "loha": peft.LoHaConfig(r=3, alpha=5, target_modules=ATTENTION + CONVOLUTIONS),
    "loha of cores": peft.LoHaConfig(
        r=3, alpha=5, target_modules=CONVOLUTIONS, use_effective_conv2d=True
    ),
    "lokr": peft.LoKrConfig(r=2, alpha=5, target_modules=ATTENTION + CONVOLUTIONS),
    "lokr of whole factors": peft.LoKrConfig(r=50, alpha=20, target_modules=ATTENTION),
}


@torch.no_grad()
def randomize(model: torch.nn.Module) -> None:
    """Give adapters values: fresh ones change nothing. Magnitudes stay near the norms."""
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
        elif "lora_" in name or "hada_" in name or "lokr_" in name:
            parameter.copy_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("folder", ["unet", "text_encoder"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_adapter_that_peft_saves_equals_what_peft_merges(
    name: str, folder: str, checkpoint: Get, tmp_path: Path
) -> None:
    if folder == "text_encoder" and name == "loha of cores":
        pytest.skip("a text encoder has no convolution with a kernel")
    torch.manual_seed(0)
    base = base_of(checkpoint("heads"))
    model = peft.get_peft_model(model_of(checkpoint("heads"), folder), CONFIGURATIONS[name])
    randomize(model)
    model.save_pretrained(str(tmp_path))
    merged: Any = model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    expected = {canonical(n, folder): t.numpy() for n, t in merged.state_dict().items()}
    # One component, as the prefix of PEFT names none.
    found = changed_tensors({folder: base[folder]}, [Lora(tmp_path / "adapter_model.safetensors")])
    changed = {n for n in base[folder] if not np.array_equal(base[folder][n], expected[n])}
    assert set(found[folder]) == changed
    for key, weight in found[folder].items():
        assert relative(weight, expected[key]) < ROUNDING


def pipeline_of(checkpoint: Path) -> Any:
    """The pipeline of diffusers."""
    return DiffusionPipeline.from_pretrained(checkpoint, low_cpu_mem_usage=False)


def fused(pipeline: Any, scale: float = 1.0) -> dict[str, dict[str, np.ndarray]]:
    """A pipeline's tensors after it took up its LoRAs."""
    pipeline.fuse_lora(components=parts(pipeline), lora_scale=scale)
    pipeline.unload_lora_weights()
    return {
        folder: {
            canonical(name, folder): tensor.numpy()
            for name, tensor in getattr(pipeline, folder).state_dict().items()
        }
        for folder in parts(pipeline)
    }


def parts(pipeline: Any) -> list[str]:
    """The components that a LoRA changes."""
    names = ("unet", "text_encoder", "text_encoder_2")
    return [name for name in names if getattr(pipeline, name, None) is not None]


def same(found: Mapping[str, Any], expected: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Whether found tensors are all that differ from the base, with the expected values."""
    for folder, tensors in base.items():
        of_folder = found.get(folder, {})
        for name in tensors:
            if name in expected[folder]:
                actual = of_folder[name] if name in of_folder else tensors[name]
                assert relative(actual, expected[folder][name]) < ROUNDING, name
        assert len(of_folder) > 0


@pytest.mark.parametrize("configuration", ["heads", "xl"])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_a_kohya_file_equals_what_diffusers_fuses(
    scale: float, configuration: str, checkpoint: Get, tmp_path: Path
) -> None:
    folder = checkpoint(configuration)
    # diffusers reads attention layers of text encoders, but not their fully connected ones.
    path = tmp_path / "it.safetensors"
    lycoris_file(path, folder, LYCORIS["lora"], only=("attn", "to_q", "proj_in"))
    pipeline = pipeline_of(folder)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    base = base_of(folder)
    same(changed_tensors(base, [Lora(path, scale)]), fused(pipeline, scale), base)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_what_diffusers_saves_equals_what_it_fuses(
    scale: float, use_dora: bool, checkpoint: Get, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    folder = checkpoint("xl")
    pipeline = pipeline_of(folder)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=[*ATTENTION, "out_proj"], use_dora=use_dora
    )
    layers: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for name in parts(pipeline):
        model = getattr(pipeline, name)
        model.add_adapter(config)
        randomize(model)
        layers[f"{name}_lora_layers"] = peft.get_peft_model_state_dict(model)
        metadata[f"{name}_lora_adapter_metadata"] = model.peft_config["default"].to_dict()
    pipeline.save_lora_weights(tmp_path, **layers, **metadata)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    base = base_of(folder)
    same(changed_tensors(base, [Lora(path, scale)]), fused(pipeline, scale), base)


def test_scales_of_components_and_blocks_equal_set_adapters(
    checkpoint: Get, tmp_path: Path
) -> None:
    folder = checkpoint("heads")
    path = tmp_path / "it.safetensors"
    lycoris_file(path, folder, LYCORIS["lora"], only=("attn",))
    blocks = {"down": {"block_0": [0.5]}, "mid": 0.25, "up": {"block_1": [0.75, 0.0]}}
    pipeline = pipeline_of(folder)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="a")
    pipeline.set_adapters("a", [{"unet": blocks, "text_encoder": 0.3}])
    base = base_of(folder)
    same(
        changed_tensors(base, [Lora(path, text_encoder=0.3, blocks=blocks)]), fused(pipeline), base
    )


def test_two_loras_equal_two_adapters(checkpoint: Get, tmp_path: Path) -> None:
    folder = checkpoint("heads")
    pipeline = pipeline_of(folder)
    scales = {"a": 0.6, "b": -0.4}
    for seed, name in enumerate(scales):
        path = tmp_path / f"{name}.safetensors"
        lycoris_file(path, folder, LYCORIS["lora"], only=("attn",), seed=seed)
        pipeline.load_lora_weights(tmp_path, weight_name=path.name, adapter_name=name)
    pipeline.set_adapters(list(scales), list(scales.values()))
    base = base_of(folder)
    loras = [Lora(tmp_path / f"{name}.safetensors", scale) for name, scale in scales.items()]
    same(changed_tensors(base, loras), fused(pipeline), base)
