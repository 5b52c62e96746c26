"""From a CLIP to a bundle of two engines."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from latentrt.bundle.errors import InputError
from latentrt.bundle.publish import publishing
from latentrt.export.clip_modules import described_clip
from latentrt.export.tracing import traced
from latentrt.graphs.store import GraphSet
from latentrt.runtime.conversion.make import DTYPES
from latentrt.weights.bundle_writer import check_replaceable
from latentrt.weights.clip_checkpoint import ClipCheckpoint
from latentrt.weights.clip_writer import write_clip_bundle
from latentrt.weights.component_specs import ComponentSpec
from latentrt.weights.parts import Part
from latentrt.weights.weight_store import Progress

_VERSIONED = ("latentrt", "torch", "transformers")


def export_clip(
    checkpoint: ClipCheckpoint,
    destination: Path,
    *,
    dtype: str,
    force: bool = False,
    progress: Progress,
) -> None:
    """Turn a CLIP into a bundle; both of its graphs are traced.

    Arguments are those of `export`. Raises `CheckpointError` naming the tensor or field that cannot
    be exported, `InputError`.
    """
    if dtype not in DTYPES:
        raise InputError("dtype", f"one of {', '.join(DTYPES)}", repr(dtype))
    check_replaceable(destination)
    stored = DTYPES[dtype]

    def graphs(spec: ComponentSpec, part: Part) -> GraphSet:
        return traced(spec, part.config, stored)

    with publishing(destination, force=force) as folder:
        progress("check", 0, 1)
        parts = checkpoint.parts(described_clip)
        tokenizer = checkpoint.tokenizer(parts[0])
        progress("check", 1, 1)
        write_clip_bundle(
            folder,
            checkpoint.name,
            parts,
            tokenizer,
            stored,
            graphs,
            versions={name: importlib.metadata.version(name) for name in _VERSIONED},
            progress=progress,
        )
