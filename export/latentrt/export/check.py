"""Everything about a checkpoint that `export` can read and check before it writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.manifest import STABLE_DIFFUSION
from latentrt.export.modules import described
from latentrt.export.synthetic import open_source
from latentrt.export.tokenizer import open_tokenizers
from latentrt.runtime.schedules import adopt_config
from latentrt.weights.checked import Checked
from latentrt.weights.checkpoint import listed_class
from latentrt.weights.families import family_of, forces_zeros, left_out
from latentrt.weights.latent_space import LatentSpace, read_sample_size
from latentrt.weights.parts import open_parts
from latentrt.weights.single_file import SingleFile
from latentrt.weights.source import Source


def check(checkpoint: str | Path, scratch: Path, variant: str | None = None) -> Checked:
    """Open a folder or random checkpoint and check all but the values of its weights.

    `scratch` is a folder to work in; `variant` as for `export`. Raises `CheckpointError` naming the
    file, tensor or field that cannot be exported, and `InputError` for a variant that is not there.
    """
    source = open_source(checkpoint, variant)
    if isinstance(source, SingleFile) and source.prediction_type is None:
        problem = "its prediction type is not in the file, and has to be measured or stated"
        raise CheckpointError(source.path, problem)
    family = family_of(source)
    scheduler, notes = _scheduler(source, forced=family.name == STABLE_DIFFUSION)
    parts = open_parts(source, family, described)
    sample_size, size_notes = read_sample_size(source, family, parts["unet"].config)
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
