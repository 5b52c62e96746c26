"""A checkpoint's scheduler config, as the class that its index names reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.builder import build_schedule
from latentrt.runtime.schedules.catalogue import CATALOGUE
from latentrt.runtime.schedules.classes import CLASS_DEFAULTS, class_here
from latentrt.runtime.schedules.config import as_stable_diffusion, ignored_keys

__all__ = ["Adopted", "adopt_config", "samplers_of"]

_INDEX: Final = "model_index.json"
_FILE: Final = "scheduler_config.json"
_STEPS: Final = (20, 4, 1)
"""A config is drawn from if one of these numbers of steps is: some allow few steps, some many."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A scheduler config whose `_class_name` is the class that draws.

    `config` has every key of the file; `notes` has a sentence for each thing inferred or ignored.
    """

    config: Mapping[str, object]
    notes: tuple[str, ...]


def adopt_config(
    config: Mapping[str, object], index_class: str | None, *, forced: bool = False
) -> Adopted:
    """The config of a checkpoint as its pipeline in diffusers reads it.

    `config` is the content of `scheduler_config.json`, `index_class` the class that
    `model_index.json` names for the scheduler, None if it names none. The index decides the class;
    the file gives the keys, and the class only where the index gives none. `forced` says that the
    pipeline is Stable Diffusion 1's or 2's, which forces keys on every scheduler. Raises InputError
    for a class that does not exist here, and for a config that its class cannot draw from.

    Source: diffusers' `DiffusionPipeline.from_pretrained` and `ConfigMixin.from_config`.
    """
    class_name, notes = _class(config.get("_class_name"), index_class)
    adopted = {**config, "_class_name": class_name}
    _check(as_stable_diffusion(adopted) if forced else adopted)
    ignored = ignored_keys(adopted)
    if ignored:
        notes = (*notes, f"{_FILE}: no diffusers scheduler reads {', '.join(ignored)}: ignored")
    return Adopted(adopted, notes)


def samplers_of(config: Mapping[str, object]) -> tuple[str, ...]:
    """The short names of the samplers that can draw from a scheduler config."""
    return tuple(name for name in CATALOGUE if not _refusals(config, name))


def _class(written: object, index_class: str | None) -> tuple[str, tuple[str, ...]]:
    """The class that draws, and how that was found."""
    source, named = (_FILE, written) if index_class is None else (_INDEX, index_class)
    found = class_here(named)
    if found is None:
        expected = f"one of {', '.join(sorted(CLASS_DEFAULTS))} (name the one to draw with there)"
        got = "none" if named is None else repr(named)
        raise InputError(f"scheduler class in {source}", expected, got)
    notes: list[str] = []
    if index_class is None:
        notes.append(f"{_INDEX} names no scheduler class: {_FILE} names {named}")
    elif written is None:
        notes.append(f"{_FILE} names no class: {_INDEX} names {named}")
    elif written != named:
        notes.append(f"{_FILE} names the class {written}, {_INDEX} {named}: the index decides")
    if found != named:
        notes.append(f"scheduler class {named} is drawn by {found}, which gives the same")
    return found, tuple(notes)


def _check(config: Mapping[str, object]) -> None:
    """Raise InputError if the config's own class cannot draw from it."""
    errors = _refusals(config, None)
    if errors:
        # A refusal of the number of steps says least about the config.
        raise next((error for error in errors if error.field != "steps"), errors[0])


def _refusals(config: Mapping[str, object], sampler: str | None) -> list[InputError]:
    """Why a sampler refuses each number of steps that is tried; none if it takes one."""
    errors: list[InputError] = []
    for steps in _STEPS:
        try:
            build_schedule(config, steps=steps, sampler=sampler)
        except InputError as error:
            errors.append(error)
        else:
            return []
    return errors
