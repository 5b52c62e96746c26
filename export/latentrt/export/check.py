"""Everything about a checkpoint that `export` can read and check before it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.manifest import STABLE_DIFFUSION
from latentrt.export.family import Family, family_of, forces_zeros, left_out
from latentrt.export.latent_space import LatentSpace
from latentrt.export.modules import Config
from latentrt.export.parts import Part, open_parts
from latentrt.export.source import Source, open_source
from latentrt.export.tokenizer import Tokenizer, open_tokenizers
from latentrt.runtime.schedules import adopt_config
from latentrt.weights.checkpoint import listed_class

_SAMPLE_SIZE = 64
"""The sample size of a U-Net whose config states none, as in diffusers' pipelines."""

_OLD = (0, 9)
"""Before this version of diffusers, a U-Net's config may state a wrong size."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A checkpoint that can be exported.

    `scheduler` is its scheduler's config under the class that draws. `sample_size` is the default
    (height, width) of a latent. `notes` tell what was inferred, ignored or left out, a sentence
    each.
    """

    source: Source
    family: Family
    parts: Mapping[str, Part]
    tokenizers: Mapping[str, Tokenizer]
    latent_space: LatentSpace
    scheduler: Mapping[str, Any]
    sample_size: tuple[int, int]
    zeros: bool
    notes: tuple[str, ...]

    @property
    def prediction_type(self) -> str:
        """What the model predicts."""
        return str(self.scheduler.get("prediction_type") or "epsilon")


def check(checkpoint: str | Path, scratch: Path, variant: str | None = None) -> Checked:
    """Open a folder or random checkpoint and check all but the values of its weights.

    `scratch` is a folder to work in; `variant` as for `export`. Raises `CheckpointError` naming the
    file, tensor or field that cannot be exported, and `InputError` for a variant that is not there.
    """
    source = open_source(checkpoint, variant)
    family = family_of(source)
    scheduler, notes = _scheduler(source, forced=family.name == STABLE_DIFFUSION)
    parts = open_parts(source, family)
    sample_size, size_notes = _sample_size(source, family, parts["unet"].config)
    latent_space = LatentSpace.of(f"{source.name}/vae", family, parts["vae"].config)
    return Checked(
        source=source,
        family=family,
        parts=parts,
        tokenizers=open_tokenizers(source, family, parts, scratch),
        latent_space=latent_space,
        scheduler=scheduler,
        sample_size=sample_size,
        zeros=forces_zeros(source, family),
        notes=(
            *left_out(source, family),
            *(note for part in parts.values() for note in part.notes),
            *size_notes,
            *latent_space.notes,
            *notes,
        ),
    )


def _scheduler(source: Source, *, forced: bool) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    stated = source.config("scheduler")
    try:
        named = listed_class(source.index, "scheduler")
    except ValueError as error:
        raise CheckpointError(f"{source.name}/model_index.json", str(error)) from error
    try:
        adopted = adopt_config(stated, named, forced=forced)
    except InputError as error:
        where = f"{source.name}/scheduler/scheduler_config.json"
        raise CheckpointError(where, str(error)) from error
    notes = adopted.notes
    if stated.get("prediction_type") is None:
        notes += ("prediction_type: epsilon, the default of a scheduler that states none",)
    return adopted.config, notes


def _sample_size(
    source: Source, family: Family, config: Config
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """The default (height, width) of a latent, and a note where the config says another.

    Source: `StableDiffusionPipeline.__init__`, which corrects what old U-Nets state.
    """
    stated: Any = config["sample_size"] or _SAMPLE_SIZE
    sides = [stated, stated] if isinstance(stated, int) else stated
    whole = isinstance(sides, list | tuple) and all(type(n) is int and n > 0 for n in sides)
    if not whole or len(sides) != 2:
        problem = f"sample_size is {stated!r}, expected one or two whole numbers"
        raise CheckpointError(f"{source.name}/unet/config.json", problem)
    corrects = family.name == STABLE_DIFFUSION and isinstance(stated, int)
    if corrects and stated < _SAMPLE_SIZE and _is_old(source.config("unet")):
        note = f"unet: sample_size {stated} of an old config is read as {_SAMPLE_SIZE}"
        return (_SAMPLE_SIZE, _SAMPLE_SIZE), (f"{note}, as in {family.pipeline}",)
    return (sides[0], sides[1]), ()


def _is_old(config: Config) -> bool:
    """Whether diffusers before 0.9 wrote a config; one that names no version is not old."""
    numbers = str(config.get("_diffusers_version")).split(".")[:2]
    return all(n.isdecimal() for n in numbers) and tuple(map(int, numbers)) < _OLD
