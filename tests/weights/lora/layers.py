"""Layers of the libraries' own tiny models, and LoRA files of LyCORIS's modules for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from lycoris.functional.general import weight_decompose
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from numpy.typing import NDArray
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.source import TensorSource

KINDS: Mapping[str, Any] = {
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
MATRICES = (nn.Linear, nn.Conv2d)
NORMS = (nn.LayerNorm, nn.GroupNorm)


def base_of(checkpoint: Path) -> dict[str, TensorSource]:
    """What LoRAs can change of a checkpoint, as latentrt reads it."""
    opened = Checkpoint.open(checkpoint)
    return {name: opened.tensors(name) for name in KINDS if (checkpoint / name).is_dir()}


def model_of(checkpoint: Path, folder: str) -> nn.Module:
    """A component as its own library loads it."""
    settings = {"low_cpu_mem_usage": False} if folder == "unet" else {}
    return KINDS[folder].from_pretrained(checkpoint / folder, **settings).eval()


@functools.cache
def layers_of(
    checkpoint: Path, folder: str, kinds: tuple[type[nn.Module], ...] = MATRICES
) -> Mapping[str, Any]:
    """The layers of some classes, by canonical name; not to be changed."""
    found = model_of(checkpoint, folder).named_modules()
    return {canonical(name, folder): module for name, module in found if isinstance(module, kinds)}


def canonical(name: str, folder: str) -> str:
    """The name that graphs use; transformers has dropped `text_model.`."""
    own = folder == "unet" or name.startswith(("text_model.", "text_projection"))
    return name if own else f"text_model.{name}"


@dataclass(frozen=True)
class Kind:
    """One of LyCORIS's kinds: makes a module for a layer; its change; what it applies to."""

    make: Callable[[str, nn.Module], Any]
    change: Callable[[Any], dict[str, torch.Tensor]]
    layers: tuple[type[nn.Module], ...] = MATRICES


def _lora(**options: Any) -> Kind:
    settings: dict[str, Any] = {"lora_dim": 3, "alpha": 1.5, **options}
    return Kind(
        lambda name, module: LoConModule(name, module, **settings),
        # Without the scale of the whole, which the module's callers apply.
        lambda m: {"weight": _decomposed(m, m.make_weight() * m.scale)},
    )


def _product(of: Any, **options: Any) -> Kind:
    settings: dict[str, Any] = {"lora_dim": 3, "alpha": 1.5, **options}
    return Kind(
        lambda name, module: of(name, module, **settings),
        lambda m: {"weight": _decomposed(m, m.get_weight(m.shape))},
    )


def _decomposed(module: Any, change: torch.Tensor) -> torch.Tensor:
    if not module.wd:
        return change
    weight = module.org_module[0].weight
    return weight_decompose(weight + change, module.dora_scale, 1, module.wd_on_out) - weight


def _stored(module: Any) -> dict[str, torch.Tensor]:
    weight, bias = module.get_diff_weight()
    return {"weight": weight} | ({} if bias is None else {"bias": bias})


def _state(module: Any) -> dict[str, torch.Tensor]:
    if isinstance(module, FullModule):  # its own is taken once the module replaced the layer
        return {f"diff{'_b' * (key == 'bias')}": t for key, t in _stored(module).items()}
    return module.state_dict()


LYCORIS: Mapping[str, Kind] = {
    "lora": _lora(),
    "lora of another rank": _lora(lora_dim=8, alpha=2.0),
    "lora with a core": _lora(use_tucker=True),
    "loha": _product(LohaModule),
    "loha with cores": _product(LohaModule, use_tucker=True),
    "lokr": _product(LokrModule, lora_dim=2, alpha=5.0, factor=2),
    "lokr of products": _product(LokrModule, lora_dim=1, factor=4, decompose_both=True),
    "lokr with a core": _product(LokrModule, lora_dim=2, factor=2, use_tucker=True),
    "lokr of whole factors": _product(LokrModule, lora_dim=64, alpha=5.0, full_matrix=True),
    "dora by row": _lora(weight_decompose=True),
    "dora by column": _lora(weight_decompose=True, wd_on_out=False),
    "dora of a core": _lora(weight_decompose=True, use_tucker=True),
    "loha with magnitudes": _product(LohaModule, weight_decompose=True),
    "lokr with magnitudes": _product(LokrModule, lora_dim=2, factor=2, weight_decompose=True),
    "full": Kind(FullModule, _stored),
    "norms": Kind(NormModule, _stored, NORMS),
}


@torch.no_grad()
def lycoris_file(
    path: Path,
    checkpoint: Path,
    kind: Kind,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    only: tuple[str, ...] = ("",),
) -> dict[str, dict[str, NDArray[Any]]]:
    """Write a file of a kind; returns its changes by folder and tensor.

    It has a module for every layer whose name contains one of the words of `only`.
    """
    torch.manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    changes: dict[str, dict[str, NDArray[Any]]] = {}
    for folder in base_of(checkpoint):
        for name, layer in layers_of(checkpoint, folder, kind.layers).items():
            if not any(word in name for word in only):
                continue
            prefix = KOHYA[folder] + name.replace(".", "_")
            module = kind.make(prefix, layer)
            for parameter in module.parameters(recurse=True):
                noise = 0.2 * torch.randn_like(parameter)
                # Magnitudes stay near the norms that they begin as.
                parameter.copy_((parameter + noise if parameter.ndim > 1 else noise).to(dtype))
            for key, tensor in _state(module).items():
                tensors[f"{prefix}.{key}"] = tensor.to(dtype).contiguous()
            for key, tensor in kind.change(module).items():
                changes.setdefault(folder, {})[f"{name}.{key}"] = tensor.float().numpy()
    safetensors.torch.save_file(tensors, path)
    return changes


def relative(actual: Any, expected: Any) -> float:
    """||a - b|| / ||b||, in float64."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
