"""What can be wrong with a checkpoint's folder, each a change to one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tests.conftest import CONFIGURATIONS, VAE
from tests.export.conftest import Tensors, change_json, change_tensors
from tests.export.pytorch import FILES, stored

Change = Callable[[Path], object]


def tensors(component: str, change: Callable[[Tensors], object]) -> Change:
    """Other tensors in a component."""
    return lambda folder: change_tensors(folder, component, change)


def config(path: str, **changes: Any) -> Change:
    """Other fields in a JSON file."""
    return lambda folder: change_json(folder / path, lambda c: c.update(changes))


def set_value(name: str, value: float, dtype: torch.dtype = torch.float32) -> Any:
    """A value, in a dtype, at the end of a tensor."""

    def change(of: Tensors) -> None:
        of[name] = of[name].to(dtype)
        of[name].view(-1)[-1] = value

    return change


def unet(configuration: str = "heads", **changes: Any) -> Change:
    """A U-Net of another configuration, its tensors with it, written by diffusers."""

    def change(folder: Path) -> None:
        model = UNet2DConditionModel(**{**CONFIGURATIONS[configuration]["unet"], **changes})
        model.save_pretrained(folder / "unet")

    return change


def vae(**changes: Any) -> Change:
    """A VAE of another configuration, its tensors with it, written by diffusers."""

    def change(folder: Path) -> None:
        model = AutoencoderKL(**{**VAE, **changes})
        model.save_pretrained(folder / "vae")

    return change


def remove(path: str) -> Change:
    """No such file or folder."""

    def change(folder: Path) -> None:
        if (folder / path).is_dir():
            shutil.rmtree(folder / path)
        else:
            (folder / path).unlink()

    return change


def write(path: str, content: str) -> Change:
    """Another content of a file."""
    return lambda folder: (folder / path).write_text(content)


def truncate(folder: Path) -> None:
    """A VAE's weights without their end."""
    path = folder / "vae" / FILES["vae"]
    path.write_bytes(path.read_bytes()[:-100])


def pickle(folder: Path) -> None:
    """A U-Net's weights as PyTorch pickles them."""
    tensors = stored(folder, "unet")
    (folder / "unet" / FILES["unet"]).unlink()
    torch.save(tensors, folder / "unet" / "diffusion_pytorch_model.bin")
