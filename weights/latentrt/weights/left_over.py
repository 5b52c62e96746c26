"""What a single file holds beside the tensors of a checkpoint, and files of other kinds."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.tensors import TensorFile

_SCHEDULE: Final = (
    r"(sqrt_|log_|sqrt_recip_|sqrt_recipm1_)?(one_minus_)?(alphas_cumprod|betas)(_prev)?"
    r"|posterior_\w+|lvlb_weights|logvar|scale_factor|denoiser\.sigmas|ddim_\w+|global_step"
)
_POSITIONS: Final = r".*embeddings\.position_ids"
_HARMLESS: Final[Mapping[str, str]] = {
    _SCHEDULE: "levels of noise, which the scheduler's config gives",
    r"model_ema\.(decay|num_updates)": "counters of the moving averages",
    r"model_ema\..*": "EMA weights of the U-Net; --ema reads them",
    r"(first_stage_model|vae)\.(loss|model_ema)\..*": "what a VAE is trained with",
    r"(cond_stage_model|conditioner)\..*(logit_scale|attn_mask|text_projection(\.weight)?)": (
        "tensors of the text encoder that no layer needs here"
    ),
    r"cond_stage_model\.model\.transformer\.resblocks\.23\..*": (
        "the last layer of the text encoder, which Stable Diffusion 2 leaves out"
    ),
    r"(cond_stage_model|conditioner)\..*(vision_model|visual)\..*": "CLIP's half for pictures",
    r"depth_model\..*": "the estimator of depths",
    r"control_model\..*": "a ControlNet",
}
"""What single files hold beside the parts: a pattern of names, and what it is."""


def left_over(file: TensorFile, read: Collection[str]) -> list[str]:
    """A sentence for each group of tensors of a file that are not read."""
    notes: list[str] = []
    rest = [name for name in file if name not in read]
    broken = [n for n in rest if re.fullmatch(_POSITIONS, n) and not _counts(file[n])]
    if broken:
        notes.append(f"position_ids: broken, as merging leaves them ({broken[0]}): ignored")
    rest = [name for name in rest if not re.fullmatch(_POSITIONS, name)]
    for pattern, meaning in _HARMLESS.items():
        group = [name for name in rest if re.fullmatch(pattern, name)]
        rest = [name for name in rest if name not in set(group)]
        if group:
            notes.append(f"not read: {group[0]}{_more(group)}: {meaning}")
    if rest:
        notes.append(f"not read: {rest[0]}{_more(rest)}: no layer has this name")
    return notes


def _counts(positions: NDArray[Any]) -> bool:
    flat = positions.reshape(-1)
    return positions.dtype.kind == "i" and bool(np.array_equal(flat, np.arange(flat.size)))


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


_STRANGERS: Final[Mapping[str, str]] = {
    r".*(lora_up|lora_down|lora_A|lora_B|hada_w1_a|lokr_w1|dora_scale).*": (
        "is a LoRA: give the checkpoint it belongs to, and the file with --lora"
    ),
    r"emb_params|clip_[lg]|string_to_param.*": (
        "is an embedding: give a checkpoint, and the file with --embedding"
    ),
    r"(model\.diffusion_model\.)?(double_blocks|single_blocks|joint_blocks)\..*": (
        "is a transformer such as Flux or Stable Diffusion 3, which are not supported"
    ),
    r"(control_model|controlnet_cond_embedding|input_hint_block)\..*": (
        "is a ControlNet, not a checkpoint"
    ),
    r"(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid.*)\.weight": (
        "has a VAE and no U-Net: give a checkpoint, and the file with --vae"
    ),
    r".*(text_model|resblocks)\..*": (
        "has a text encoder and no U-Net: give the checkpoint it belongs to"
    ),
}


def what_else(file: TensorFile) -> str:
    """What a file without a U-Net is, and what to do with it."""
    for pattern, problem in _STRANGERS.items():
        if any(re.fullmatch(pattern, name) for name in file):
            return problem
    some = ", ".join(sorted(file)[:3]) or "none"
    return f"has no U-Net: its tensors ({some}) are those of another kind of model"
