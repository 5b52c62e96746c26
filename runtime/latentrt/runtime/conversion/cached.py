"""Bundles made of checkpoints on demand, in the user's cache folder.

Each checkpoint has one place there, by its path. A bundle is made again when a file of the
checkpoint has changed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.cache_folder import cache_folder
from latentrt.bundle.errors import FileError
from latentrt.bundle.files import read_object
from latentrt.bundle.publish import write_file
from latentrt.runtime.conversion.locks import locked
from latentrt.runtime.conversion.make import make_bundle
from latentrt.runtime.conversion.make_controlnet import make_control_bundle
from latentrt.runtime.conversion.options import CheckpointOptions
from latentrt.runtime.conversion.places import (
    BUNDLE_RECORD,
    BUNDLES,
    VARIANT_RECORD,
    VARIANTS,
)
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.controlnet import ControlNetCheckpoint
from latentrt.weights.source import Source
from latentrt.weights.weight_store import Progress

_SCHEMA: Final = 2
"""The version of how bundles are made. Bundles of another version are made again."""


@dataclass(frozen=True, slots=True)
class CachedBundle:
    """A bundle in the cache, or a variant's changed weights.

    `source` is what it was made of, `size` its bytes (linked weights are not counted), `used` the
    time of its last use in seconds.
    """

    path: Path
    source: str
    size: int
    used: float
    kind: str = "bundle"


def cached_bundle(checkpoint: str | Path, options: CheckpointOptions, progress: Progress) -> Path:
    """The bundle of a checkpoint, which is made if it is not there or the checkpoint has changed.

    Of several processes that want the same one, one makes it and the others wait. Raises
    `CheckpointError`, and `Unwritable` if the cache cannot be written.
    """
    source = options.open(checkpoint)
    origin = _origin(checkpoint, source)
    place = _place(origin, options.identity())
    state = [_state(path) for path in (origin, *options.files().values())]

    def make() -> None:
        make_bundle(source, place, dtype=options.dtype, force=True, progress=progress)

    return _cached(origin, place, state, make)


def cached_controlnet(path: Path, progress: Progress) -> Path:
    """The bundle of a ControlNet's folder or file, likewise."""
    checkpoint = ControlNetCheckpoint.open(path)
    origin = Path(os.path.abspath(path))
    place = _place(origin, "controlnet")

    def make() -> None:
        make_control_bundle(checkpoint, place, force=True, progress=progress)

    return _cached(origin, place, [_state(origin)], make)


def _cached(origin: Path, place: Path, state: Any, make: Callable[[], None]) -> Path:
    """The place of a bundle, which is made unless it is there and its origin has not changed."""
    with locked(place):
        if _state_of(place) != state:
            make()
            record = {"schema": _SCHEMA, "source": str(origin), "state": state}
            write_file(place / BUNDLE_RECORD, json.dumps(record).encode())
        else:
            with contextlib.suppress(OSError):
                os.utime(place / BUNDLE_RECORD)
    return place


def cached_bundles(folder: Path | None = None) -> list[CachedBundle]:
    """The bundles in a cache folder, the one that was used last first."""
    return _listed(cache_folder(folder) / BUNDLES, BUNDLE_RECORD, "bundle")


def cached_variants(folder: Path | None = None) -> list[CachedBundle]:
    """The changed weights of LoRAs and VAE files in a cache folder, likewise."""
    return _listed(cache_folder(folder) / VARIANTS, VARIANT_RECORD, "variant")


def _listed(folder: Path, name: str, kind: str) -> list[CachedBundle]:
    found: list[CachedBundle] = []
    for path in sorted(folder.glob("*")):
        with contextlib.suppress(FileError, OSError):
            record = read_object(path / name)
            files = [p.stat() for p in path.rglob("*") if p.is_file()]
            size = sum(s.st_size for s in files if s.st_nlink == 1)
            used = (path / name).stat().st_mtime
            found.append(CachedBundle(path, str(record.get("source")), size, used, kind))
    return sorted(found, key=lambda bundle: -bundle.used)


def remove_cached(bundle: CachedBundle) -> None:
    """Remove a bundle from the cache."""
    shutil.rmtree(bundle.path, ignore_errors=True)


def _origin(checkpoint: str | Path, source: Source) -> Path:
    """Where a checkpoint lies; one named as on the hub lies in the hub's cache."""
    named = source.path if isinstance(source, Checkpoint) else checkpoint
    return Path(os.path.abspath(named))


def _place(origin: Path, identity: str) -> Path:
    text = f"{origin}\0{identity}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", origin.stem)[:60].strip(".-") or "checkpoint"
    return cache_folder() / BUNDLES / f"{name}-{digest[:12]}"


def _state(origin: Path) -> Any:
    """What changes when a checkpoint's file is written or replaced."""
    paths = sorted(p for p in origin.rglob("*") if p.is_file()) if origin.is_dir() else [origin]
    found = [(path, path.stat()) for path in paths]
    return [
        [str(path.relative_to(origin)), s.st_size, s.st_mtime_ns, s.st_ino] for path, s in found
    ]


def _state_of(place: Path) -> Any:
    """The state of the checkpoint that a bundle was made of, None without a bundle."""
    try:
        record = read_object(place / BUNDLE_RECORD)
    except FileError:
        return None
    return record.get("state") if record.get("schema") == _SCHEMA else None
