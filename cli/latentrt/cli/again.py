"""`latentrt generate --from`: draw a picture again, with the options given beside it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import FileError
from latentrt.cli.controls import GivenControl, recorded_controls
from latentrt.cli.tasks import HIRES
from latentrt.cli.weights import recorded_weights
from latentrt.runtime import Refiner, Request, Sampling, TextToImage
from latentrt.runtime.checks import json_object
from latentrt.runtime.image import recorded_request
from latentrt.runtime.refiner import named_refiner
from latentrt.runtime.request_fields import rows_named
from latentrt.runtime.schedules import schedules_of
from latentrt.runtime.tasks import HiresFix, Task, read_task, task_json
from latentrt.runtime.weights_fields import Weights, embeddings_of, loras_of

_PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": ("prompt",),
    "negative_prompt": ("negative_prompt",),
    "syntax": ("syntax",),
    "compose": ("composed",),
    "size": ("size",),
    "num_images": ("num_images",),
    "seed": ("seed",),
    "subseed": ("subseed",),
    "subseed_strength": ("subseed_strength",),
    "tile": ("tiling",),
    "generator": ("generator",),
    "clip_skip": ("clip_skip",),
    "original_size": ("original_size",),
    "crop": ("crop",),
    "target_size": ("target_size",),
    "guidance_scale": ("guidance", "scale"),
    "guidance_rescale": ("guidance", "rescale"),
    "guidance_interval": ("guidance", "interval"),
    "sampler": ("sampling", "sampler"),
    "schedule": ("sampling", "schedule"),
    "steps": ("sampling", "steps"),
    "eta": ("sampling", "eta"),
    "rho": ("sampling", "rho"),
    "timesteps": ("sampling", "timesteps"),
    "sigmas": ("sampling", "sigmas"),
    "brownian": ("sampling", "brownian"),
    "fast": ("reuse",),
}
"""The place of each option's value in a request's JSON."""

_ENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "sampler": ("eta", "brownian"),
    "schedule": ("rho", "timesteps", "sigmas"),
    "steps": ("timesteps", "sigmas"),
    "timesteps": ("schedule", "rho", "sigmas"),
    "sigmas": ("schedule", "rho", "timesteps"),
}
"""By option, the fields of a picture's sampling that another value of it resets.

Eta and the Brownian path were chosen for a sampler, rho for a schedule. Only one of steps,
schedule, timesteps and sigmas decides the levels."""


_FOLDERS: Final[Mapping[str, Path | None]] = {"embedding": None, "lora": None}


def again(
    source: Path,
    asked: Request,
    given: Set[str],
    latents: NDArray[np.float32] | None = None,
    folders: Mapping[str, Path | None] = MappingProxyType({}),
    controls: Sequence[GivenControl] = (),
) -> Request:
    """The request in a picture's file, changed by the options in `given`.

    `asked` is the request of the command line; only its options in `given` are read. Of `latents`
    [n, c, h, w] the rows are taken that the picture names, if it names any. Embeddings and LoRAs
    that it names are found in `folders`, by kind, or replaced by those given. `controls` are the
    ControlNets of the command line. Raises `FileError` for a file without a request, and
    `InputError` if the two do not fit together.
    """
    with warnings.catch_warnings():
        # Pillow warns of damaged metadata; what cannot be read is an error anyway.
        warnings.simplefilter("ignore")
        value = recorded_request(source)
    wanted = asked.to_json()
    for part in ("guidance", "sampling"):
        if not isinstance(value.setdefault(part, {}), dict):
            raise FileError(source, f"holds a request without {part}")
    if asked.sampling.schedule is not None:
        # The name of a sampler may name a schedule too.
        given = {*given, "schedule"}
    ended = _ended(value["sampling"], asked.sampling, given)
    value["sampling"] |= {key: kept for key, kept in asdict(Sampling()).items() if key in ended}
    for option, (*parts, key) in _PLACES.items():
        if option in given:
            place, new = value, wanted
            for part in parts:
                place, new = place[part], new[part]
            place[key] = new[key]
    if given & {"to_prompt", "to_seed"}:
        value |= {name: wanted[name] for name in ("interpolation", "num_images")}
    task = _begun_with(value, source, asked, given)
    weights = _weights(value, source, asked, given, {**_FOLDERS, **folders})
    found = recorded_controls(value, source, controls)
    refiner = _refined(value, asked, given)
    if latents is None:
        return _with(Request.from_json(value), task, weights).with_values(
            controls=found, refiner=refiner
        )
    named = value.pop("latents", None)
    request = _with(Request.from_json(value), task, weights).with_values(
        controls=found, refiner=refiner
    )
    rows = rows_named(latents, named, request.num_images)
    if rows is None and named is not None:
        print("latentrt: note: other latents than the picture was made from", file=sys.stderr)
    return request.with_values(latents=latents if rows is None else rows)


def _begun_with(
    value: dict[str, Any], source: Path, asked: Request, given: Set[str]
) -> Task | None:
    """The task of a picture that is to begin with other images than it did, or with its own.

    It is taken out of the JSON; what of it was not given stays as it was.
    """
    recorded = value.get("task")
    if not isinstance(recorded, dict | None):
        raise FileError(source, "holds a request whose task is malformed")
    before = cast("dict[str, Any]", recorded or {})
    if isinstance(asked.task, TextToImage):
        return None
    value.pop("task", None)
    wanted = task_json(asked.task)
    if before.get("name") != wanted["name"]:
        return asked.task
    for name in asked.task.pictures:
        if before.get(name) != wanted[name]:
            print(f"latentrt: note: another {name} than the picture began with", file=sys.stderr)
    if isinstance(asked.task, HiresFix):
        given = {HIRES[name] for name in given & HIRES.keys()} | (given & {"counting"})
    kept = {n: v for n, v in before.items() if n not in given and n not in asked.task.pictures}
    arrays = [getattr(asked.task, name) for name in asked.task.pictures]
    return read_task(wanted | kept, arrays)


def _refined(value: dict[str, Any], asked: Request, given: Set[str]) -> Refiner | None:
    """The refiner of a picture that is drawn again; it is taken out of the JSON."""
    recorded = value.pop("refiner", None)
    if asked.refiner is None or recorded is None or "refiner_at" in given:
        return asked.refiner or named_refiner(recorded, ())
    at = json_object("refiner", recorded).get("at", asked.refiner.at)
    return Refiner(asked.refiner.model, at)


def _ended(recorded: Mapping[str, Any], asked: Sampling, given: Set[str]) -> set[str]:
    """The keys of a picture's sampling to reset to their defaults."""
    wanted = asdict(asked)
    new = {name for name in _ENDS if name in given and wanted[name] != recorded.get(name)}
    ended = {key for name in new for key in _ENDS[name]}
    # The schedule stays, so that samplers can be compared, unless the new sampler lacks it.
    sampler = asked.sampler if "sampler" in new else None
    if sampler is not None and recorded.get("schedule") not in schedules_of(sampler):
        ended |= {"schedule", "rho"}
    return ended


def _weights(
    value: dict[str, Any],
    source: Path,
    asked: Request,
    given: Set[str],
    folders: Mapping[str, Path | None],
) -> list[Weights]:
    """The weights of a picture that is drawn again; they are taken out of the JSON.

    Those of a kind that is given take the place of the picture's.
    """
    recorded = value.pop("weights", [])
    if not isinstance(recorded, list):
        raise FileError(source, "holds a request whose weights are malformed")
    kept: list[Any] = []
    for each in cast("list[Any]", recorded):
        stated = cast("dict[str, object]", each) if isinstance(each, dict) else {}
        kind = stated.get("kind")
        if kind not in given or kind not in folders:
            kept.append(each)
    replaced = [kind for kind in folders if kind in given]
    if replaced and asked.to_json()["weights"] != recorded:
        print("latentrt: note: other weights than the picture's", file=sys.stderr)
    found = recorded_weights(kept, asked.weights, folders)
    tokens = {each.token for each in embeddings_of(found)}
    loras = {each.sha256() for each in loras_of(found)}
    more = [e for e in embeddings_of(asked.weights) if e.token not in tokens]
    return [*found, *more, *(e for e in loras_of(asked.weights) if e.sha256() not in loras)]


def _with(request: Request, task: Task | None, weights: Sequence[Weights]) -> Request:
    request = request.with_values(weights=weights)
    return request if task is None else request.with_values(task=task)
