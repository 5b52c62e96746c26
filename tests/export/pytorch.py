"""The libraries' own models of a tiny checkpoint, and what they compute, to hold exports to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from tests.conftest import CONFIGURATIONS
from transformers import CLIPTextModel, CLIPTextModelWithProjection

TOKENS = "text_model.embeddings.token_embedding.weight"
PROJECTION = "text_projection.weight"
# PyTorch against itself: the same operations, in another order where a batch is split otherwise.
SAME = 1e-6
# ONNX Runtime against PyTorch in fp32: rounding over some fifty layers.
ROUNDING = 1e-5

FILES = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def folders_of(configuration: str) -> tuple[str, ...]:
    """The folders of a checkpoint that hold tensors."""
    second = ("text_encoder_2",) if "text_2" in CONFIGURATIONS[configuration] else ()
    return ("text_encoder", *second, "unet", "vae")


def components_of(configuration: str) -> tuple[str, ...]:
    """The graphs of a bundle."""
    return (*folders_of(configuration)[:-1], "vae_decoder", "vae_encoder")


def folder_of(component: str) -> str:
    """The folder that a graph's weights come from."""
    return "vae" if component.startswith("vae") else component


each_configuration = pytest.mark.parametrize("configuration", sorted(CONFIGURATIONS))
each_graph = pytest.mark.parametrize(
    ("configuration", "component"),
    [(c, component) for c in sorted(CONFIGURATIONS) for component in components_of(c)],
)


def relative(actual: Any, expected: Any) -> float:
    """||a - b|| / ||b||, in float64."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def stored(checkpoint: Path, folder: str) -> dict[str, torch.Tensor]:
    """A component's tensors as the safetensors library reads them."""
    return safetensors.torch.load_file(checkpoint / folder / FILES[folder])


def canonical(checkpoint: Path, folder: str) -> dict[str, torch.Tensor]:
    """The same, under the names that graphs use."""
    tensors = stored(checkpoint, folder)
    if not folder.startswith("text_encoder"):
        return tensors
    prefix = "text_model."
    return {
        n if n == PROJECTION else prefix + n.removeprefix(prefix): t for n, t in tensors.items()
    }


def parameters(checkpoint: Path, component: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint that belong to a graph."""
    tensors = canonical(checkpoint, folder_of(component))
    if component.startswith("text_encoder"):
        # NumPy looks tokens up, so that new ones need no other graph, and pools what comes out.
        return {n: t for n, t in tensors.items() if n not in (TOKENS, PROJECTION)}
    halves = {
        "vae_decoder": ("decoder.", "post_quant_conv."),
        "vae_encoder": ("encoder.", "quant_conv."),
    }
    beginning = halves.get(component, ("",))
    return {name: t for name, t in tensors.items() if name.startswith(beginning)}


def graph_of(bundle: Path, component: str) -> onnx.ModelProto:
    """A graph of a bundle, without its weights."""
    return onnx.load(bundle / f"{component}.onnx", load_external_data=False)


def models(checkpoint: Path) -> dict[str, Any]:
    """The libraries' own models, loaded by the libraries."""
    settings: dict[str, Any] = {"low_cpu_mem_usage": False}
    kinds: dict[str, Any] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    loaded = {
        name: kind.from_pretrained(checkpoint / name).eval()
        for name, kind in kinds.items()
        if (checkpoint / name).is_dir()
    }
    return {
        **loaded,
        "unet": UNet2DConditionModel.from_pretrained(checkpoint / "unet", **settings).eval(),
        "vae": AutoencoderKL.from_pretrained(checkpoint / "vae", **settings).eval(),
    }


@torch.inference_mode()
def evaluate(of: Mapping[str, Any], component: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by name; a text encoder takes `input_ids`, since the library looks tokens up."""
    tensors: dict[str, Any] = {name: torch.from_numpy(np.array(a)) for name, a in inputs.items()}
    if component.startswith("text_encoder"):
        found = of[component](tensors["input_ids"], output_hidden_states=True)
        hidden = {f"hidden_states.{i}": h.numpy() for i, h in enumerate(found.hidden_states)}
        return {"last_hidden_state": found.last_hidden_state.numpy(), **hidden}
    if component == "unet":
        added = {n: tensors.pop(n) for n in ("text_embeds", "time_ids") if n in tensors}
        return {"model_output": of["unet"](**tensors, added_cond_kwargs=added).sample.numpy()}
    if component == "vae_decoder":
        return {"images": of["vae"].decode(tensors["latents"]).sample.numpy()}
    posterior = of["vae"].encode(tensors["images"]).latent_dist
    return {"moments": posterior.parameters.numpy()}


def example(
    configuration: str, component: str
) -> tuple[dict[str, int], dict[str, NDArray[np.float32]]]:
    """Sizes that were not traced, and inputs of these sizes; tokens for a text encoder."""
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    if component.startswith("text_encoder"):
        ids: NDArray[Any] = rng.integers(0, 300, (3, 21))
        return {"batch": 3, "sequence": 21}, {"input_ids": ids}
    if component == "vae_encoder":
        sizes = {"batch": 1, "image_height": 40, "image_width": 64}
        return sizes, {"images": normal(1, 3, 40, 64)}
    sizes = {"batch": 3, "height": 6, "width": 10}
    if component == "vae_decoder":
        return sizes, {"latents": normal(3, 4, 6, 10)}
    inputs = {
        "sample": normal(3, 4, 6, 10),
        "timestep": np.array([1.0, 500.5, 999.0], np.float32),
        "encoder_hidden_states": normal(3, 11, 72 if configuration == "xl" else 32),
    }
    if configuration == "xl":
        inputs["text_embeds"] = normal(3, 24)
        inputs["time_ids"] = rng.integers(0, 2000, (3, 6)).astype(np.float32)
    if configuration == "lcm":
        inputs["timestep_cond"] = normal(3, 32)
    return {**sizes, "sequence": 11}, inputs
