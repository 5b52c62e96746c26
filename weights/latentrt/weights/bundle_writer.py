"""A bundle's files, written from a checked checkpoint and its graphs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from latentrt.bundle.bundle import float32_graph, record_files
from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import FILE_NAME, ComponentRecord, Manifest
from latentrt.bundle.stored_tensors import Location
from latentrt.graphs.attach import attach
from latentrt.graphs.store import GraphSet
from latentrt.weights.checked import Checked
from latentrt.weights.component_specs import BORDER, ComponentSpec, component_specs
from latentrt.weights.families import tokenizer_of
from latentrt.weights.known_vaes import known_latent_rgb
from latentrt.weights.parts import Part
from latentrt.weights.weight_store import Progress, StoredPart, store_weights

Graphs = Callable[[ComponentSpec, Part], GraphSet]
"""The traced graphs of a component."""


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
    graphs: Graphs,
    *,
    measure: Callable[[], Measured] | None = None,
    link: bool = False,
    versions: Mapping[str, str],
    progress: Progress,
) -> Manifest:
    """Write a bundle into an empty folder, such as one of `latentrt.bundle.publish`.

    `dtype` ("float32", "float16", "bfloat16") is that of the stored weights and of the graphs.
    `measure` runs when graphs and weights are written; it may add goldens and change graphs.
    Without it a part computes in float32 where diffusers upcasts it. With `link`, weights that have
    the dtype already stay in the checkpoint's own files, which are linked, or copied where they
    cannot be. The manifest that is written has the colours of a VAE that is known. Raises
    `CheckpointError` naming a tensor with a value that is not finite or does not fit.
    """
    _write_texts(folder, checked)
    (folder / "weights").mkdir()
    stored = store_weights(
        folder,
        checked.source.name,
        tuple(checked.parts.values()),
        np.dtype(dtype),
        link=link,
        progress=progress,
    )
    specs = component_specs(checked.parts)
    islands: dict[str, tuple[str, ...]] = {}
    progress("graphs", 0, len(specs))
    for done, spec in enumerate(specs, start=1):
        part = checked.parts[spec.folder]
        found = graphs(spec, part)
        if (
            measure is None
            and dtype == "float16"
            and checked.family.upcasts(spec.folder, part.config)
        ):
            assert found.upcast is not None
            islands[spec.name] = found.upcast_nodes
            found = replace(found, own=found.upcast)
        write_graphs(folder, spec, part, dtype, found, stored[spec.folder].locations)
        progress("graphs", done, len(specs))
    measured = Measured(islands=islands) if measure is None else measure()
    progress("manifest", 0, 1)
    border = BORDER[dtype]
    space = checked.latent_space
    manifest = Manifest(
        family=checked.family.name,
        source=checked.source.name,
        dtype=dtype,
        latent_channels=space.channels,
        vae_factor=space.factor,
        vae_scaling=space.scaling,
        vae_shift=0.0,
        latents_mean=space.mean,
        latents_std=space.std,
        sample_size=checked.sample_size,
        prediction_type=checked.prediction_type,
        force_zeros_for_empty_prompt=checked.zeros,
        components={
            s.name: record_of(s, checked.parts[s.folder], border, stored[s.folder]) for s in specs
        },
        storage=measured.storage,
        islands=measured.islands,
        files=record_files(folder),
        inferred=(*checked.notes, *(note for each in stored.values() for note in each.notes)),
        versions=versions,
        latent_rgb=known_latent_rgb(checked.parts["vae"].config, space.scaling, space.mean),
    )
    write_manifest(folder, manifest)
    progress("manifest", 1, 1)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a bundle's manifest, the last of its files."""
    text = json.dumps(manifest.to_json(), indent=1, sort_keys=False)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def _graph_file(spec: ComponentSpec) -> str:
    return f"{spec.name}.onnx"


def _write_texts(folder: Path, checked: Checked) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    text = json.dumps(dict(checked.scheduler), indent=2)
    scheduler.write_text(text + "\n", encoding="utf-8")
    for encoder, tokenizer in checked.tokenizers.items():
        tokenizer.save(folder / tokenizer_of(encoder))


def write_graphs(
    folder: Path,
    spec: ComponentSpec,
    part: Part,
    dtype: str,
    found: GraphSet,
    locations: Mapping[str, Location],
) -> None:
    """Write a component's graph, and beside one in 16 bits the one that computes in float32."""
    graph = _graph_file(spec)
    inputs = spec.inputs(part.config, BORDER[dtype])
    for name, content in ((graph, found.own), (float32_graph(graph), found.in_float32)):
        if content is not None:
            (folder / name).write_bytes(attach(content, locations, inputs))


def record_of(spec: ComponentSpec, part: Part, dtype: str, stored: StoredPart) -> ComponentRecord:
    """What a manifest has of a component; `dtype` is that of its graph's inputs and outputs."""
    weights, *others = stored.files
    return ComponentRecord(
        graph=_graph_file(spec),
        weights=weights,
        fingerprint=part.fingerprint,
        inputs=spec.inputs(part.config, dtype),
        outputs=spec.outputs(part.config, dtype),
        config=json.loads(json.dumps(dict(part.config), default=str)),
        others=tuple(others),
        table=stored.table,
    )
