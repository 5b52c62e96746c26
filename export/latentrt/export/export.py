"""From a checkpoint to a bundle: check, copy weights, trace graphs, run PyTorch, publish."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import float32_graph, record_files
from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.golden import RUN_PROMPT
from latentrt.bundle.manifest import FILE_NAME, GOLDEN, ComponentRecord, Manifest
from latentrt.bundle.publish import publishing
from latentrt.bundle.tensors import (
    FLOAT8,
    Entry,
    Layout,
    TensorFile,
    save_tensors,
    write_tensors,
)
from latentrt.export import trace
from latentrt.export.check import Checked, check
from latentrt.export.components import BORDER, Component, components
from latentrt.export.family import tokenizer_of
from latentrt.export.float32 import to_float32
from latentrt.export.islands import check_measurable, measured_islands, set_apart, whole_island
from latentrt.export.libraries import quiet_libraries
from latentrt.export.parts import Part
from latentrt.export.reference import GoldenInputs, Goldens, storage_cost

DTYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Arrays = Mapping[str, NDArray[Any]]
_VERSIONED: Final = ("latentrt", "torch", "diffusers", "transformers", "onnx", "onnxscript")


class Progress(Protocol):
    """Called with the progress of a stage; `total` is in the stage's own unit."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


@dataclass(frozen=True, slots=True)
class _Job:
    """One export in progress: its source, its destination and its dtype."""

    checked: Checked
    folder: Path
    dtype: str
    progress: Progress

    @property
    def parts(self) -> Mapping[str, Part]:
        """The folders that hold tensors."""
        return self.checked.parts

    @property
    def components(self) -> tuple[Component, ...]:
        """The graphs to make."""
        return components(self.parts)


def export(
    checkpoint: str | Path,
    destination: str | Path,
    *,
    dtype: str = "fp32",
    variant: str | None = None,
    golden: bool = True,
    force: bool = False,
    progress: Progress = _silent,
) -> None:
    """Turn a diffusers folder, or `random:sd15`, into a bundle at `destination`.

    `dtype` ("fp32", "fp16", "bf16") is how weights are stored. `variant` names the weights files to
    read, such as "fp16" for `diffusion_pytorch_model.fp16.safetensors`. A part without that variant
    is read without it. `golden` also stores PyTorch's outputs. On them it measures the error of
    storing the weights in 16 bits, and where float16 would overflow.

    Raises `CheckpointError` naming the file, tensor or field that cannot be exported. Raises
    `InputError` if the destination exists and `force` is false. Raises `Unavailable` without ONNX
    Runtime, which measures overflows. The bundle appears whole or not at all.
    """
    if dtype not in DTYPES:
        raise InputError("dtype", f"one of {', '.join(DTYPES)}", repr(dtype))
    _check_replaceable(Path(destination))
    if golden and dtype == "fp16":
        check_measurable()
    with quiet_libraries(), publishing(Path(destination), force=force) as folder:
        progress("check", 0, 1)
        checked = check(checkpoint, folder, variant)
        job = _Job(checked=checked, folder=folder, dtype=DTYPES[dtype], progress=progress)
        _copy_texts(job)
        progress("check", 1, 1)
        entries = _write_weights(job)
        _trace_graphs(job, entries)
        goldens = _write_goldens(job) if golden else None
        storage = _measure_storage(job, goldens)
        islands = _set_islands_apart(job, goldens)
        _write_float32_graphs(job)
        _write_manifest(job, storage, islands)


def _check_replaceable(destination: Path) -> None:
    # The libraries of tokenizers and engines open only files with names in UTF-8.
    if any("\ud800" <= letter <= "\udfff" for letter in str(destination)):
        raise InputError("destination", "a path in UTF-8", repr(str(destination)))
    # `force` replaces a bundle, never a folder of something else.
    taken = destination.is_dir() and any(destination.iterdir())
    if taken and not (destination / FILE_NAME).is_file():
        raise InputError("destination", "a bundle or nothing", f"{destination}, another folder")


def _copy_texts(job: _Job) -> None:
    scheduler = job.folder / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    text = json.dumps(dict(job.checked.scheduler), indent=2)
    scheduler.write_text(text + "\n", encoding="utf-8")
    for encoder, tokenizer in job.checked.tokenizers.items():
        tokenizer.save(job.folder / tokenizer_of(encoder))


def _write_weights(job: _Job) -> dict[str, Mapping[str, Entry]]:
    (job.folder / "weights").mkdir()
    dtype = np.dtype(job.dtype)
    layouts = {
        folder: Layout.of({n: (dtype, part.tensors.entry(n).shape) for n in part.names})
        for folder, part in job.parts.items()
    }
    total = sum(e.nbytes for layout in layouts.values() for e in layout.entries.values())
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        job.progress("weights", done, total)

    job.progress("weights", 0, total)
    for folder, layout in layouts.items():
        part = job.parts[folder]
        write_tensors(
            job.folder / "weights" / f"{folder}.safetensors",
            layout,
            lambda name, part=part: _converted(job.checked.source.name, part, name, dtype),
            advance,
        )
    return {folder: layout.entries for folder, layout in layouts.items()}


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


def _trace_graphs(job: _Job, entries: Mapping[str, Mapping[str, Entry]]) -> None:
    total = len(job.components)
    job.progress("graphs", 0, total)
    for done, component in enumerate(job.components, start=1):
        model = trace.trace(component, job.parts[component.folder].config, job.dtype)
        file = f"weights/{component.folder}.safetensors"
        trace.attach(model, entries[component.folder], file)
        trace.save(model, job.folder / f"{component.name}.onnx")
        job.progress("graphs", done, total)


def _write_goldens(job: _Job) -> Arrays:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        job.progress("goldens", done, len(job.components))

    job.progress("goldens", 0, len(job.components))
    checked = job.checked
    height, width = (n * checked.latent_space.factor for n in checked.sample_size)
    inputs = GoldenInputs(
        input_ids={name: t(RUN_PROMPT) for name, t in checked.tokenizers.items()},
        negative_input_ids={name: t("") for name, t in checked.tokenizers.items()},
        zeros=checked.zeros,
        scheduler_config=checked.scheduler,
        forced=checked.family.forced,
        sample_size=checked.sample_size,
        size=(height, width),
        unscale=checked.latent_space.unscale,
    )
    stored = {f: TensorFile(job.folder / "weights" / f"{f}.safetensors") for f in job.parts}
    tensors = Goldens(job.parts, stored, inputs, advance).tensors()
    save_tensors(job.folder / GOLDEN, tensors)
    return tensors


def _measure_storage(job: _Job, goldens: Arrays | None) -> dict[str, float]:
    """The error of storing each component's weights in 16 bits; empty without goldens."""
    if goldens is None or job.dtype == "float32":
        return {}
    costs: dict[str, float] = {}
    job.progress("storage", 0, len(job.components))
    for done, component in enumerate(job.components, start=1):
        costs[component.name] = storage_cost(component, job.parts[component.folder], goldens)
        job.progress("storage", done, len(job.components))
    return costs


def _set_islands_apart(job: _Job, goldens: Arrays | None) -> dict[str, tuple[str, ...]]:
    """Let a float16 bundle compute in float32 where float16 would overflow.

    Returns the names of these nodes, by component.
    """
    if job.dtype != "float16":
        return {}
    islands: dict[str, tuple[str, ...]] = {}
    job.progress("islands", 0, len(job.components))
    for done, component in enumerate(job.components, start=1):
        graph = job.folder / f"{component.name}.onnx"
        prefix = f"{component.name}/inputs/"
        if goldens is not None:
            of = {n.removeprefix(prefix): a for n, a in goldens.items() if n.startswith(prefix)}
            names = measured_islands(graph, of)
        elif job.checked.family.upcasts(component.folder, job.parts[component.folder].config):
            names = whole_island(graph)
        else:
            names = ()
        if names:
            set_apart(graph, names)
            islands[component.name] = names
        job.progress("islands", done, len(job.components))
    return islands


def _write_float32_graphs(job: _Job) -> None:
    """Beside each 16-bit graph, write one that computes in float32 on the same weights."""
    if job.dtype == "float32":
        return
    for component in job.components:
        graph = job.folder / f"{component.name}.onnx"
        content = to_float32(graph.read_bytes())
        (job.folder / float32_graph(graph.name)).write_bytes(content)


def _write_manifest(
    job: _Job, storage: Mapping[str, float], islands: Mapping[str, tuple[str, ...]]
) -> None:
    job.progress("manifest", 0, 1)
    checked = job.checked
    latents = checked.latent_space
    manifest = Manifest(
        family=checked.family.name,
        source=checked.source.name,
        dtype=job.dtype,
        latent_channels=latents.channels,
        vae_factor=latents.factor,
        vae_scaling=latents.scaling,
        vae_shift=0.0,
        latents_mean=latents.mean,
        latents_std=latents.std,
        sample_size=checked.sample_size,
        prediction_type=checked.prediction_type,
        force_zeros_for_empty_prompt=checked.zeros,
        components={c.name: _record(job, c) for c in job.components},
        storage=storage,
        islands=islands,
        files=record_files(job.folder),
        inferred=checked.notes,
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
    )
    text = json.dumps(manifest.to_json(), indent=1, sort_keys=False)
    (job.folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")
    job.progress("manifest", 1, 1)


def _record(job: _Job, component: Component) -> ComponentRecord:
    part = job.parts[component.folder]
    return ComponentRecord(
        graph=f"{component.name}.onnx",
        weights=f"weights/{component.folder}.safetensors",
        fingerprint=part.fingerprint,
        inputs=component.inputs(part.config, BORDER[job.dtype]),
        outputs=component.outputs(part.config, BORDER[job.dtype]),
        config=json.loads(json.dumps(dict(part.config), default=str)),
    )
