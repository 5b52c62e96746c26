"""From a ControlNet to a bundle with graphs that PyTorch traces."""

from __future__ import annotations

from pathlib import Path

from latentrt.export.control_modules import described_control
from latentrt.export.tracing import traced
from latentrt.graphs.store import GraphSet
from latentrt.runtime.conversion.make_controlnet import checked_control, write_checked_control
from latentrt.weights.component_specs import ComponentSpec
from latentrt.weights.controlnet import ControlNetCheckpoint
from latentrt.weights.parts import Part
from latentrt.weights.weight_store import Progress


def export_controlnet(
    checkpoint: ControlNetCheckpoint,
    destination: Path,
    *,
    dtype: str,
    force: bool = False,
    progress: Progress,
) -> None:
    """Turn a ControlNet into a bundle; both of its graphs are traced.

    Arguments are those of `export`. Raises `CheckpointError` naming the tensor or field that cannot
    be exported, `InputError`.
    """
    part, stored = checked_control(checkpoint, destination, described_control, dtype)

    def graphs(spec: ComponentSpec, part: Part) -> GraphSet:
        return traced(spec, part.config, stored)

    write_checked_control(
        checkpoint, part, destination, stored, graphs, link=False, force=force, progress=progress
    )
