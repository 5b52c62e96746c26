"""Kinds of checkpoint: which folders they have, and how their parts have to fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from latentrt.bundle.errors import CheckpointError
from latentrt.bundle.manifest import LATENT_CONSISTENCY, STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from latentrt.export.components import SIZES, pooled_width
from latentrt.export.modules import Config
from latentrt.export.source import Source


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint.

    `name` is that in manifests; `pipeline` the class that `model_index.json` names; `forced` what
    that class sets in every scheduler's config; `addition` the U-Net's `addition_embed_type`;
    `distilled` whether its U-Net has to take a guidance scale, which those of the others may.
    """

    name: str
    pipeline: str
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
        return self.name == STABLE_DIFFUSION_XL and folder == "vae" and bool(config["force_upcast"])


FAMILIES: Final = (
    Family(
        STABLE_DIFFUSION,
        "StableDiffusionPipeline",
        forced=MappingProxyType({"steps_offset": 1, "clip_sample": False}),
    ),
    Family(
        STABLE_DIFFUSION_XL,
        "StableDiffusionXLPipeline",
        forced=MappingProxyType({}),
        text_encoders=("text_encoder", "text_encoder_2"),
        addition="text_time",
    ),
    Family(
        LATENT_CONSISTENCY,
        "LatentConsistencyModelPipeline",
        forced=MappingProxyType({}),
        distilled=True,
    ),
)

_PLAIN_UNET: Final[Mapping[str, Any]] = {
    "class_embed_type": None,
    "num_class_embeds": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "center_input_sample": False,
}
"""Values under which a U-Net takes what `latentrt.export.components` knows, and nothing else."""


def tokenizer_of(text_encoder: str) -> str:
    """The folder of a text encoder's tokenizer."""
    return text_encoder.replace("text_encoder", "tokenizer")


def family_of(source: Source) -> Family:
    """The family that a checkpoint's `model_index.json` names.

    Raises `CheckpointError` for any other, for a refiner, and for a part that is null.
    """
    where = f"{source.name}/model_index.json"
    found = source.index.get("_class_name")
    family = next((f for f in FAMILIES if f.pipeline == found), None)
    if family is None:
        known = ", ".join(f.pipeline for f in FAMILIES)
        raise CheckpointError(where, f"architecture {found!r} is not supported; {known} are")
    if source.index.get("requires_aesthetics_score"):
        problem = "requires_aesthetics_score is true: a refiner is not supported"
        raise CheckpointError(where, problem)
    for folder in (*family.folders, *family.tokenizers):
        # diffusers writes [null, null] for a part that a checkpoint goes without.
        if source.index.get(folder, folder) in (None, [None, None]):
            raise CheckpointError(where, f"{folder} is null: only whole checkpoints are supported")
    return family


def forces_zeros(source: Source, family: Family) -> bool:
    """Whether no negative prompt is zeros rather than the empty prompt; SDXL alone has the choice.

    Raises `CheckpointError` if `model_index.json` says neither.
    """
    if family.name != STABLE_DIFFUSION_XL:
        return False
    stated = source.index.get("force_zeros_for_empty_prompt", True)
    if not isinstance(stated, bool):
        problem = f"force_zeros_for_empty_prompt is {stated!r}, expected true or false"
        raise CheckpointError(f"{source.name}/model_index.json", problem)
    return stated


def check_unet(where: str, family: Family, config: Config) -> None:
    """Raise `CheckpointError` for a U-Net with inputs that the family's does not have."""
    for field, plain in {**_PLAIN_UNET, "addition_embed_type": family.addition}.items():
        if config[field] != plain:
            problem = f"{field} is {config[field]!r}: this kind of U-Net is not supported"
            raise CheckpointError(where, problem)
    if family.distilled and config["time_cond_proj_dim"] is None:
        raise CheckpointError(where, f"time_cond_proj_dim is None: {family.pipeline} needs it")


def check_fit(source: Source, family: Family, configs: Mapping[str, Config]) -> None:
    """Raise `CheckpointError` where what one part gives is not what another takes."""
    unet, vae = configs["unet"], configs["vae"]
    where = f"{source.name}/unet"
    if unet["in_channels"] != vae["latent_channels"]:
        problem = (
            f"U-Net takes {unet['in_channels']} channels, the VAE has {vae['latent_channels']}: "
            "only text to image is supported"
        )
        raise CheckpointError(where, problem)
    if unet["out_channels"] != unet["in_channels"]:
        problem = f"out_channels is {unet['out_channels']}, in_channels {unet['in_channels']}"
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
            problem = f"{field} {unet[field]} but pooled text of width {pooled} and {SIZES} sizes"
            raise CheckpointError(where, f"{problem} of width {width}")
