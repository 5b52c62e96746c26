"""Diffusers folders written as one file in the original layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.tensors import save_tensors
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.ldm_names import Spelling, prefixed, unet_spelling, vae_spelling
from latentrt.weights.open_clip_names import clip, open_clip

_XL = "conditioner.embedders."


def write_single_file(folder: Path, path: Path) -> Path:
    """Write all of a folder's parts into a file, OpenCLIP's attention fused; returns its path."""
    source = Checkpoint.open(folder)
    tensors: dict[str, NDArray[Any]] = {}
    thirds: dict[str, dict[int, NDArray[Any]]] = {}
    for part, spelling in _spellings(source).items():
        stored = source.tensors(part)
        for name in stored:
            several = spelling(name)
            # An upsampler comes behind an attention, where its block has one.
            block = name.partition(".upsamplers.")[0] + ".attentions."
            usual = len(several) == 1 or any(other.startswith(block) for other in stored)
            spelled = several[0] if usual or "upsamplers" not in name else several[-1]
            array = stored[name].T if spelled.transposed else stored[name]
            if part == "vae" and ".attn_1." in spelled.name and array.ndim == 2:
                array = array[:, :, None, None]
            if spelled.third is None:
                tensors[spelled.name] = np.ascontiguousarray(array)
            else:
                thirds.setdefault(spelled.name, {})[spelled.third] = array
    for name, three in thirds.items():
        tensors[name] = np.concatenate([three[i] for i in range(3)])
    save_tensors(path, tensors)
    return path


def _spellings(source: Checkpoint) -> dict[str, Spelling]:
    levels = len(source.config("vae")["block_out_channels"])
    layers = source.config("unet")["layers_per_block"]
    found = {
        "unet": prefixed("model.diffusion_model.", unet_spelling(layers)),
        "vae": prefixed("first_stage_model.", vae_spelling(levels)),
    }
    listed = [f for f in ("text_encoder", "text_encoder_2") if source.index.get(f, [None])[0]]
    if "text_encoder_2" in listed:
        texts = {"text_encoder": (f"{_XL}0.transformer.", clip)}
        texts["text_encoder_2"] = (f"{_XL}{len(listed) - 1}.model.", open_clip)
    elif source.config("text_encoder")["hidden_act"] == "gelu":
        texts = {"text_encoder": ("cond_stage_model.model.", open_clip)}
    else:
        texts = {"text_encoder": ("cond_stage_model.transformer.", clip)}
    return found | {part: prefixed(*texts[part]) for part in listed}
