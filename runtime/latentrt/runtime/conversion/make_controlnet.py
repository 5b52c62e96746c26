"""A ControlNet's bundle from its checkpoint and the graphs that ship."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from latentrt.bundle.errors import InputError
from latentrt.bundle.publish import publishing
from latentrt.graphs.store import GraphSet
from latentrt.runtime.conversion.make import DTYPES, REMEDY, TRACED, NoGraphError, own_dtype
from latentrt.weights.bundle_writer import Graphs, check_replaceable
from latentrt.weights.component_specs import ComponentSpec
from latentrt.weights.control_specs import CONTROLNET_CLASS
from latentrt.weights.control_writer import write_control_bundle
from latentrt.weights.controlnet import ControlNetCheckpoint
from latentrt.weights.parts import Describe, Part, Shapes
from latentrt.weights.ready_graphs import ready_graphs, ready_shapes
from latentrt.weights.source import Config
from latentrt.weights.weight_store import Progress


def make_control_bundle(
    checkpoint: ControlNetCheckpoint,
    destination: Path,
    *,
    dtype: str | None = None,
    force: bool = False,
    progress: Progress,
) -> None:
    """Turn a ControlNet into a bundle, without PyTorch.

    Arguments are those of `make_bundle`, and so are the errors.
    """

    def shapes(folder: str, config: Config) -> Shapes:
        found = ready_shapes(folder, config)
        if found is None:
            raise NoGraphError(checkpoint.name, f"{CONTROLNET_CLASS}: {TRACED}: {REMEDY}")
        return found

    def graphs(spec: ComponentSpec, part: Part) -> GraphSet:
        ready = ready_graphs(spec, part.config)
        if ready is None:
            raise NoGraphError(checkpoint.name, f"{TRACED}: {REMEDY}")
        return ready.at(stored)

    part, stored = checked_control(checkpoint, destination, shapes, dtype)
    write_checked_control(
        checkpoint, part, destination, stored, graphs, link=True, force=force, progress=progress
    )


def checked_control(
    checkpoint: ControlNetCheckpoint, destination: Path, describe: Describe, dtype: str | None
) -> tuple[Part, str]:
    """A ControlNet's tensors, and the dtype that they are stored in; raises what `make` raises."""
    if dtype is not None and dtype not in DTYPES:
        raise InputError("dtype", f"one of {', '.join(DTYPES)}", repr(dtype))
    check_replaceable(destination)
    part = checkpoint.part(describe)
    return part, own_dtype(part) if dtype is None else DTYPES[dtype]


def write_checked_control(
    checkpoint: ControlNetCheckpoint,
    part: Part,
    destination: Path,
    stored: str,
    graphs: Graphs,
    *,
    link: bool,
    force: bool,
    progress: Progress,
) -> None:
    """Publish the bundle of a ControlNet that was checked, whole or not at all."""
    with publishing(destination, force=force) as folder:
        write_control_bundle(
            folder,
            checkpoint.name,
            part,
            stored,
            graphs,
            link=link,
            versions={"latentrt": importlib.metadata.version("latentrt")},
            progress=progress,
        )
