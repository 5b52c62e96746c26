"""A ControlNet's bundle, written from its checked tensors and its graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from latentrt.bundle.bundle import record_files
from latentrt.bundle.manifest import CONTROLNET as FAMILY
from latentrt.bundle.manifest import Manifest
from latentrt.weights.bundle_writer import Graphs, record_of, write_graphs, write_manifest
from latentrt.weights.component_specs import BORDER
from latentrt.weights.control_specs import CONTROLNET, control_specs, hint_factor
from latentrt.weights.parts import Part
from latentrt.weights.weight_store import Progress, store_weights

_PLACES = 64


def write_control_bundle(
    folder: Path,
    name: str,
    part: Part,
    dtype: str,
    graphs: Graphs,
    *,
    link: bool = False,
    versions: Mapping[str, str],
    progress: Progress,
) -> None:
    """Write a ControlNet into an empty folder, such as one of `latentrt.bundle.publish`.

    `name` is the ControlNet's; the other arguments are those of `write_bundle`. Raises
    `CheckpointError` naming a tensor with a value that is not finite or does not fit.
    """
    (folder / "weights").mkdir()
    kind = np.dtype(dtype)
    stored = store_weights(folder, name, (part,), kind, link=link, progress=progress)[CONTROLNET]
    specs, border = control_specs(), BORDER[dtype]
    progress("graphs", 0, len(specs))
    for done, spec in enumerate(specs, start=1):
        write_graphs(folder, spec, part, dtype, graphs(spec, part), stored.locations)
        progress("graphs", done, len(specs))
    progress("manifest", 0, 1)
    manifest = Manifest(
        family=FAMILY,
        source=name,
        dtype=dtype,
        latent_channels=part.config["in_channels"],
        vae_factor=hint_factor(part.config),
        vae_scaling=1.0,
        vae_shift=0.0,
        latents_mean=None,
        latents_std=None,
        sample_size=(_PLACES, _PLACES),
        prediction_type="none",
        force_zeros_for_empty_prompt=False,
        components={spec.name: record_of(spec, part, border, stored) for spec in specs},
        storage={},
        islands={},
        files=record_files(folder),
        inferred=(*part.notes, *stored.notes),
        versions=versions,
    )
    write_manifest(folder, manifest)
    progress("manifest", 1, 1)
