"""From a checkpoint to a bundle: check, copy weights, trace graphs, run PyTorch, publish."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import RUN_PROMPT
from latentrt.bundle.manifest import GOLDEN
from latentrt.bundle.publish import publishing
from latentrt.bundle.tensors import TensorFile, save_tensors
from latentrt.export.check import check
from latentrt.export.islands import check_measurable, measured_islands, set_apart
from latentrt.export.latent_rgb import fitted_latent_rgb
from latentrt.export.libraries import quiet_libraries
from latentrt.export.reference import GoldenInputs, Goldens, storage_cost
from latentrt.export.tracing import traced
from latentrt.graphs.store import GraphSet
from latentrt.runtime.conversion.make import DTYPES
from latentrt.weights.bundle_writer import Measured, check_replaceable, write_bundle, write_manifest
from latentrt.weights.checked import Checked
from latentrt.weights.component_specs import ComponentSpec, component_specs
from latentrt.weights.parts import Part
from latentrt.weights.ready_graphs import ready_graphs
from latentrt.weights.weight_store import Progress

Arrays = Mapping[str, NDArray[Any]]
_VERSIONED: Final = ("latentrt", "torch", "diffusers", "transformers", "onnx", "onnxscript")


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def export(
    checkpoint: str | Path,
    destination: str | Path,
    *,
    dtype: str = "fp32",
    variant: str | None = None,
    golden: bool = True,
    trace: bool = False,
    force: bool = False,
    progress: Progress = _silent,
) -> None:
    """Turn a diffusers folder, or `random:sd15`, into a bundle at `destination`.

    `dtype` ("fp32", "fp16", "bf16") is how weights are stored. `variant` names the weights files to
    read, such as "fp16" for `diffusion_pytorch_model.fp16.safetensors`. A part without that variant
    is read without it. `golden` also stores PyTorch's outputs. On them it measures the error of
    storing the weights in 16 bits, and where float16 would overflow. `trace` traces graphs that
    ship with latentrt too.

    Raises `CheckpointError` naming the file, tensor or field that cannot be exported. Raises
    `InputError` if the destination exists and `force` is false. Raises `Unavailable` without ONNX
    Runtime, which measures overflows. The bundle appears whole or not at all.
    """
    if dtype not in DTYPES:
        raise InputError("dtype", f"one of {', '.join(DTYPES)}", repr(dtype))
    check_replaceable(Path(destination))
    if golden and dtype == "fp16":
        check_measurable()
    with quiet_libraries(), publishing(Path(destination), force=force) as folder:
        progress("check", 0, 1)
        checked = check(checkpoint, folder, variant)
        progress("check", 1, 1)
        job = _Job(
            checked=checked, folder=folder, dtype=DTYPES[dtype], trace=trace, progress=progress
        )
        manifest = write_bundle(
            folder,
            checked,
            job.dtype,
            job.graphs,
            measure=job.measure if golden else None,
            versions={name: importlib.metadata.version(name) for name in _VERSIONED},
            progress=progress,
        )
        if manifest.latent_rgb is None:
            progress("previews", 0, 1)
            fitted = fitted_latent_rgb(folder, manifest)
            write_manifest(folder, replace(manifest, latent_rgb=fitted))
            progress("previews", 1, 1)


@dataclass(frozen=True, slots=True)
class _Job:
    """One export in progress: its source, its destination and its dtype."""

    checked: Checked
    folder: Path
    dtype: str
    trace: bool
    progress: Progress

    @property
    def parts(self) -> Mapping[str, Part]:
        """The folders that hold tensors."""
        return self.checked.parts

    @property
    def components(self) -> tuple[ComponentSpec, ...]:
        """The graphs to make."""
        return component_specs(self.parts)

    def graphs(self, component: ComponentSpec, part: Part) -> GraphSet:
        """The graphs that ship for a component, or else what PyTorch traces."""
        ready = None if self.trace else ready_graphs(component, part.config)
        return traced(component, part.config, self.dtype) if ready is None else ready.at(self.dtype)

    def measure(self) -> Measured:
        """What the manifest has of rounded weights and of overflows in float16."""
        goldens = _write_goldens(self)
        return Measured(_measure_storage(self, goldens), _set_islands_apart(self, goldens))


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
        latent_space=checked.latent_space,
    )
    stored = {f: TensorFile(job.folder / "weights" / f"{f}.safetensors") for f in job.parts}
    tensors = Goldens(job.parts, stored, inputs, advance).tensors()
    save_tensors(job.folder / GOLDEN, tensors)
    return tensors


def _measure_storage(job: _Job, goldens: Arrays) -> dict[str, float]:
    """The error of storing each component's weights in 16 bits; empty in float32."""
    if job.dtype == "float32":
        return {}
    costs: dict[str, float] = {}
    job.progress("storage", 0, len(job.components))
    for done, component in enumerate(job.components, start=1):
        costs[component.name] = storage_cost(component, job.parts[component.folder], goldens)
        job.progress("storage", done, len(job.components))
    return costs


def _set_islands_apart(job: _Job, goldens: Arrays) -> dict[str, tuple[str, ...]]:
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
        of = {n.removeprefix(prefix): a for n, a in goldens.items() if n.startswith(prefix)}
        names = measured_islands(graph, of)
        if names:
            set_apart(graph, names)
            islands[component.name] = names
        job.progress("islands", done, len(job.components))
    return islands
