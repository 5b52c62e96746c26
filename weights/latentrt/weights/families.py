"""Families of checkpoints: their folders, and how their parts must fit together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from latentrt.bundle.errors import CheckpointError
from latentrt.bundle.manifest import (
    LATENT_CONSISTENCY,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_XL_REFINER,
    XL,
)
from latentrt.weights.component_specs import pooled_width, size_count
from latentrt.weights.source import Config, Source


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint.

    `name` is its name in manifests, `pipeline` the diffusers class that is the reference.
    `siblings` matches classes with the same parts for other tasks. `forced` are values that the
    reference sets in every scheduler's config. `addition` is the U-Net's `addition_embed_type`.
    `distilled`: the U-Net must take a guidance scale, which in other families is optional.
    """

    name: str
    pipeline: str
    siblings: re.Pattern[str]
    forced: Mapping[str, Any]
    text_encoders: tuple[str, ...] = ("text_encoder",)
    addition: str | None = None
    distilled: bool = False

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that hold a config and tensors."""
        return (*self.text_encoders, "unet", "vae")

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The tokenizers' folders, one a text encoder."""
        return tuple(tokenizer_of(folder) for folder in self.text_encoders)

    def upcasts(self, folder: str, config: Config) -> bool:
        """Whether diffusers runs a part stored in float16 in float32.

        A VAE whose config says `force_upcast`; no pipeline but SDXL's reads that, and it is the
        default. Source: `StableDiffusionXLPipeline`, `needs_upcasting`.
        """
        return self.name in XL and folder == "vae" and bool(config["force_upcast"])


FAMILIES: Final = (
    Family(
        STABLE_DIFFUSION,
        "StableDiffusionPipeline",
        # Not StableDiffusion3Pipeline, which has another kind of parts.
        re.compile(
            r"StableDiffusion(?!XL|\d)\w*Pipeline\w*|SemanticStableDiffusionPipeline"
            r"|CycleDiffusionPipeline|LEditsPPPipelineStableDiffusion"
        ),
        forced=MappingProxyType({"steps_offset": 1, "clip_sample": False}),
    ),
    Family(
        STABLE_DIFFUSION_XL,
        "StableDiffusionXLPipeline",
        re.compile(r"StableDiffusionXL\w*Pipeline|LEditsPPPipelineStableDiffusionXL"),
        forced=MappingProxyType({}),
        text_encoders=("text_encoder", "text_encoder_2"),
        addition="text_time",
    ),
    Family(
        STABLE_DIFFUSION_XL_REFINER,
        "StableDiffusionXLImg2ImgPipeline",
        re.compile("(?!)"),  # its index says so in another way
        forced=MappingProxyType({}),
        text_encoders=("text_encoder_2",),
        addition="text_time",
    ),
    Family(
        LATENT_CONSISTENCY,
        "LatentConsistencyModelPipeline",
        re.compile(r"LatentConsistencyModel\w*Pipeline"),
        forced=MappingProxyType({}),
        distilled=True,
    ),
)

_REFINER: Final = next(f for f in FAMILIES if f.name == STABLE_DIFFUSION_XL_REFINER)

_PLAIN_UNET: Final[Mapping[str, Any]] = {
    "class_embed_type": None,
    "num_class_embeds": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "center_input_sample": False,
}
"""Config values of a U-Net with only the inputs that `latentrt.weights.component_specs` knows."""


_RGB: Final = 3


def tokenizer_of(text_encoder: str) -> str:
    """The folder of a text encoder's tokenizer."""
    return text_encoder.replace("text_encoder", "tokenizer")


def family_of(source: Source) -> Family:
    """The family of a checkpoint, by the pipeline that its `model_index.json` names.

    A pipeline of the same parts for another task is valid, such as image to image. For the
    checkpoint's own code (["file", "Class"]) the parts decide. Raises `CheckpointError` for any
    other pipeline, and for a part that is null.
    """
    where = f"{source.name}/model_index.json"
    stated: object = source.index.get("_class_name")
    words = cast("list[object]", stated) if isinstance(stated, list) else []
    custom = bool(words)
    found: object = str(words[-1]) if custom else source.index.get("_class_name")
    family = next((f for f in FAMILIES if f is not _REFINER and f.pipeline == found), None) or next(
        (f for f in FAMILIES if isinstance(found, str) and f.siblings.fullmatch(found)), None
    )
    if family is None and custom:
        family = _by_parts(source)
    if family is None:
        known = ", ".join(f.pipeline for f in FAMILIES)
        raise CheckpointError(where, f"architecture {found!r} is not supported; {known} are")
    if family.name == STABLE_DIFFUSION_XL and source.index.get("requires_aesthetics_score"):
        family = _REFINER
    for folder in (*family.folders, *family.tokenizers):
        # diffusers writes [null, null] for a part that a checkpoint goes without.
        if source.index.get(folder, folder) in (None, [None, None]):
            raise CheckpointError(where, f"{folder} is null: only whole checkpoints are supported")
    return family


def _by_parts(source: Source) -> Family | None:
    listed = set(source.index)
    if "text_encoder_2" in listed:
        name = STABLE_DIFFUSION_XL
    elif "unet" in listed and source.config("unet").get("time_cond_proj_dim") is not None:
        name = LATENT_CONSISTENCY
    else:
        name = STABLE_DIFFUSION
    family = next(f for f in FAMILIES if f.name == name)
    return family if {*family.folders, *family.tokenizers} <= listed else None


def left_out(source: Source, family: Family) -> tuple[str, ...]:
    """The parts of a checkpoint's pipeline that are not exported, one sentence each."""
    said: list[str] = []
    stated: object = source.index.get("_class_name")
    if stated != family.pipeline:
        words = cast("list[object]", stated) if isinstance(stated, list) else [stated]
        named = " of ".join(str(word) for word in reversed(words))
        said.append(f"pipeline: {named}, read as {family.pipeline}")
    read = {*family.folders, *family.tokenizers, "scheduler"}
    others = [
        name
        for name, entry in source.index.items()
        if name not in read and isinstance(entry, list) and entry != [None, None]
        if name != "_class_name"
    ]
    if others:
        said.append(f"left out: {', '.join(others)}")
    return tuple(said)


def forces_zeros(source: Source, family: Family) -> bool:
    """Whether zeros replace the empty prompt where there is no negative prompt; only for SDXL.

    null is false, as in diffusers. Raises `CheckpointError` if `model_index.json` has any value
    other than null, true or false.
    """
    if family.name not in XL:
        return False
    stated = source.index.get("force_zeros_for_empty_prompt", True)
    if stated not in (None, True, False):
        problem = f"force_zeros_for_empty_prompt is {stated!r}, expected true or false"
        raise CheckpointError(f"{source.name}/model_index.json", problem)
    return bool(stated)


def check_unet(where: str, family: Family, config: Config) -> None:
    """Raise `CheckpointError` for a U-Net with inputs that the family's does not have."""
    for field, plain in {**_PLAIN_UNET, "addition_embed_type": family.addition}.items():
        if config[field] != plain:
            problem = f"{field} is {config[field]!r}: this kind of U-Net is not supported"
            raise CheckpointError(where, problem)
    if family.distilled and config["time_cond_proj_dim"] is None:
        raise CheckpointError(where, f"time_cond_proj_dim is None: {family.pipeline} needs it")


def check_text(where: str, family: Family, config: Config) -> None:
    """Raise `CheckpointError` for a text encoder that masks the padding of a prompt.

    SDXL's pipeline ignores that field.
    """
    stated: object = config.get("use_attention_mask")
    if stated and family.name not in XL:
        problem = f"use_attention_mask is {stated!r}: masks of text are not supported"
        raise CheckpointError(where, problem)


def check_fit(source: Source, family: Family, configs: Mapping[str, Config]) -> None:
    """Raise `CheckpointError` if a part's outputs do not fit another part's inputs."""
    unet, vae = configs["unet"], configs["vae"]
    where = f"{source.name}/unet"
    channels = vae["latent_channels"]
    extra = unet["in_channels"] - channels
    if extra not in (0, 1, channels, channels + 1):
        problem = (
            f"U-Net takes {unet['in_channels']} channels, the VAE has {channels}: supported are "
            "text to image, depth, pix2pix and inpainting, "
            f"with {channels}, {channels + 1}, {2 * channels} and {2 * channels + 1} channels"
        )
        raise CheckpointError(where, problem)
    for field in ("in_channels", "out_channels"):
        if vae[field] != _RGB:
            problem = f"{field} is {vae[field]}, expected {_RGB}: a VAE of RGB pictures"
            raise CheckpointError(f"{source.name}/vae", problem)
    if unet["out_channels"] != channels:
        problem = f"out_channels is {unet['out_channels']}, the VAE has {channels} channels"
        raise CheckpointError(where, problem)
    width = sum(configs[folder]["hidden_size"] for folder in family.text_encoders)
    if unet["cross_attention_dim"] != width:
        problem = f"cross_attention_dim {unet['cross_attention_dim']} but text of width {width}"
        raise CheckpointError(where, problem)
    if family.addition is not None:
        pooled = configs[family.text_encoders[-1]]["projection_dim"]
        if pooled_width(unet) != pooled:
            field = "projection_class_embeddings_input_dim"
            width = unet["addition_time_embed_dim"]
            count = size_count(unet)
            problem = f"{field} {unet[field]} but pooled text of width {pooled} and {count} sizes"
            raise CheckpointError(where, f"{problem} of width {width}")
