"""Everything about a checkpoint that can be read and checked before a bundle is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.manifest import STABLE_DIFFUSION
from latentrt.runtime.schedules import adopt_config
from latentrt.weights.checked import Checked
from latentrt.weights.checkpoint import listed_class
from latentrt.weights.families import Family, family_of, forces_zeros, left_out
from latentrt.weights.latent_space import LatentSpace, read_sample_size
from latentrt.weights.parts import Describe, Part, open_parts
from latentrt.weights.source import Source
from latentrt.weights.tokenizer_files import Tokenizer

Tokenizers = Callable[[Source, Family, Mapping[str, Part]], Mapping[str, Tokenizer]]
"""The tokenizer of each text encoder, by the encoder's name."""


def check_source(source: Source, describe: Describe, tokenizers: Tokenizers) -> Checked:
    """Check all of a checkpoint but the values of its weights.

    `describe` gives the shapes of a part's tensors. Raises `CheckpointError` naming the file,
    tensor or field that cannot be read.
    """
    family = family_of(source)
    scheduler, notes = _scheduler(source, forced=family.name == STABLE_DIFFUSION)
    parts = open_parts(source, family, describe)
    sample_size, size_notes = read_sample_size(source, family, parts["unet"].config)
    latent_space = LatentSpace.of(f"{source.name}/vae", family, parts["vae"].config)
    return Checked(
        source=source,
        family=family,
        parts=parts,
        tokenizers=tokenizers(source, family, parts),
        latent_space=latent_space,
        scheduler=scheduler,
        sample_size=sample_size,
        zeros=forces_zeros(source, family),
        notes=(
            *source.notes,
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
