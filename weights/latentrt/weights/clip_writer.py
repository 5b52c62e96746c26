"""A CLIP's bundle, written from its checked tensors and its graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latentrt.bundle.bundle import record_files
from latentrt.bundle.manifest import CLIP as FAMILY
from latentrt.bundle.manifest import Manifest
from latentrt.weights.bundle_writer import Graphs, record_of, write_graphs, write_manifest
from latentrt.weights.clip_specs import TEXT_ENCODER, clip_specs
from latentrt.weights.component_specs import BORDER
from latentrt.weights.families import tokenizer_of
from latentrt.weights.parts import Part
from latentrt.weights.tokenizer_files import Tokenizer
from latentrt.weights.weight_store import Progress, store_weights


def write_clip_bundle(
    folder: Path,
    name: str,
    parts: Sequence[Part],
    tokenizer: Tokenizer,
    dtype: str,
    graphs: Graphs,
    *,
    versions: Mapping[str, str],
    progress: Progress,
) -> None:
    """Write a CLIP into an empty folder, such as one of `latentrt.bundle.publish`.

    `name` is the checkpoint's; the other arguments are those of `write_bundle`. Raises
    `CheckpointError` naming a tensor with a value that is not finite or does not fit.
    """
    tokenizer.save(folder / tokenizer_of(TEXT_ENCODER))
    (folder / "weights").mkdir()
    stored = store_weights(folder, name, parts, np.dtype(dtype), link=False, progress=progress)
    specs, border = clip_specs(), BORDER[dtype]
    of = {part.folder: part for part in parts}
    progress("graphs", 0, len(specs))
    for done, spec in enumerate(specs, start=1):
        part = of[spec.folder]
        write_graphs(folder, spec, part, dtype, graphs(spec, part), stored[spec.folder].locations)
        progress("graphs", done, len(specs))
    progress("manifest", 0, 1)
    manifest = Manifest(
        family=FAMILY,
        source=name,
        dtype=dtype,
        latent_channels=1,
        vae_factor=1,
        vae_scaling=1.0,
        vae_shift=0.0,
        latents_mean=None,
        latents_std=None,
        sample_size=(1, 1),
        prediction_type="none",
        force_zeros_for_empty_prompt=False,
        components={s.name: record_of(s, of[s.folder], border, stored[s.folder]) for s in specs},
        storage={},
        islands={},
        files=record_files(folder),
        inferred=tuple(note for part in parts for note in part.notes),
        versions=versions,
    )
    write_manifest(folder, manifest)
    progress("manifest", 1, 1)
