"""A bundle's files, written from a checked checkpoint and its graphs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import record_files
from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.manifest import FILE_NAME, ComponentRecord, Manifest
from latentrt.bundle.tensors import FLOAT8, Entry, Layout, write_tensors
from latentrt.weights.checked import Checked
from latentrt.weights.component_specs import BORDER, ComponentSpec, component_specs
from latentrt.weights.families import tokenizer_of
from latentrt.weights.parts import Part

Graph = Callable[[ComponentSpec, Mapping[str, Entry]], bytes]
"""The ONNX file of a component, given where each of its tensors lies in its weights file."""


class Progress(Protocol):
    """Called with the progress of a stage; `total` is in the stage's own unit."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a bundle's components, with the manifest's field names."""

    storage: Mapping[str, float] = field(default_factory=dict[str, float])
    islands: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


def check_replaceable(destination: Path) -> None:
    """Raise `InputError` for a place that no bundle may take."""
    # The libraries of tokenizers and engines open only files with names in UTF-8.
    if any("\ud800" <= letter <= "\udfff" for letter in str(destination)):
        raise InputError("destination", "a path in UTF-8", repr(str(destination)))
    # `force` replaces a bundle, never a folder of something else.
    taken = destination.is_dir() and any(destination.iterdir())
    if taken and not (destination / FILE_NAME).is_file():
        raise InputError("destination", "a bundle or nothing", f"{destination}, another folder")


def write_bundle(
    folder: Path,
    checked: Checked,
    dtype: str,
    graph: Graph,
    *,
    measure: Callable[[], Measured] = Measured,
    versions: Mapping[str, str],
    progress: Progress,
) -> None:
    """Write a bundle into an empty folder, such as one of `latentrt.bundle.publish`.

    `dtype` ("float32", "float16", "bfloat16") is that of the stored weights and of the graphs.
    `measure` runs when graphs and weights are written; it may add goldens and change graphs.
    Raises `CheckpointError` naming a tensor with a value that is not finite or does not fit.
    """
    _write_texts(folder, checked)
    entries = _write_weights(folder, checked, np.dtype(dtype), progress)
    specs = component_specs(checked.parts)
    progress("graphs", 0, len(specs))
    for done, spec in enumerate(specs, start=1):
        (folder / _graph_file(spec)).write_bytes(graph(spec, entries[spec.folder]))
        progress("graphs", done, len(specs))
    measured = measure()
    progress("manifest", 0, 1)
    manifest = Manifest(
        family=checked.family.name,
        source=checked.source.name,
        dtype=dtype,
        latent_channels=checked.latent_space.channels,
        vae_factor=checked.latent_space.factor,
        vae_scaling=checked.latent_space.scaling,
        vae_shift=0.0,
        latents_mean=checked.latent_space.mean,
        latents_std=checked.latent_space.std,
        sample_size=checked.sample_size,
        prediction_type=checked.prediction_type,
        force_zeros_for_empty_prompt=checked.zeros,
        components={s.name: _record(s, checked.parts[s.folder], BORDER[dtype]) for s in specs},
        storage=measured.storage,
        islands=measured.islands,
        files=record_files(folder),
        inferred=checked.notes,
        versions=versions,
    )
    text = json.dumps(manifest.to_json(), indent=1, sort_keys=False)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")
    progress("manifest", 1, 1)


def weights_file(folder: str) -> str:
    """The weights file of a checkpoint's folder, relative to the bundle."""
    return f"weights/{folder}.safetensors"


def _graph_file(spec: ComponentSpec) -> str:
    return f"{spec.name}.onnx"


def _write_texts(folder: Path, checked: Checked) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    text = json.dumps(dict(checked.scheduler), indent=2)
    scheduler.write_text(text + "\n", encoding="utf-8")
    for encoder, tokenizer in checked.tokenizers.items():
        tokenizer.save(folder / tokenizer_of(encoder))


def _write_weights(
    folder: Path, checked: Checked, dtype: np.dtype[Any], progress: Progress
) -> dict[str, Mapping[str, Entry]]:
    (folder / "weights").mkdir()
    layouts = {
        name: Layout.of({n: (dtype, part.tensors.entry(n).shape) for n in part.names})
        for name, part in checked.parts.items()
    }
    total = sum(e.nbytes for layout in layouts.values() for e in layout.entries.values())
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress("weights", done, total)

    progress("weights", 0, total)
    for name, layout in layouts.items():
        part = checked.parts[name]
        write_tensors(
            folder / weights_file(name),
            layout,
            lambda name, part=part: _converted(checked.source.name, part, name, dtype),
            advance,
        )
    return {name: layout.entries for name, layout in layouts.items()}


def _converted(source: str, part: Part, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    stored = part.tensors[name]
    if stored.dtype.name in FLOAT8:
        stored = stored.astype(np.float32)  # exact
    where = f"{source}/{part.folder}"
    if not _finite(stored):
        raise CheckpointError(where, f"tensor {name!r} holds a value that is not finite")
    if stored.dtype == dtype:
        return stored
    with np.errstate(over="ignore"):
        converted = stored.astype(dtype)
    if not _finite(converted):
        raise CheckpointError(where, f"tensor {name!r} does not fit into {dtype}")
    return converted


def _finite(array: NDArray[Any]) -> bool:
    # The sum of |x| would overflow in float16; min and max need no array of booleans.
    with np.errstate(invalid="ignore"):  # bfloat16 warns of a NaN
        return array.size == 0 or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def _record(spec: ComponentSpec, part: Part, dtype: str) -> ComponentRecord:
    return ComponentRecord(
        graph=_graph_file(spec),
        weights=weights_file(spec.folder),
        fingerprint=part.fingerprint,
        inputs=spec.inputs(part.config, dtype),
        outputs=spec.outputs(part.config, dtype),
        config=json.loads(json.dumps(dict(part.config), default=str)),
    )
