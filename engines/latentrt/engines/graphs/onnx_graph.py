"""A blueprint's graph as ONNX, for what parses bytes beside a folder of weights.

A model hub's cache has a folder of links into another folder, where files are named by their hash.
ONNX Runtime follows no link that leads out of the folder which a graph's path to its weights starts
from. So such a graph is given another path, to the file itself. (OpenVINO takes no path that leads
out of the graph's own folder either.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentrt.bundle.errors import BuildFailed, BundleError
from latentrt.engines.engine import Blueprint
from latentrt.graphs import onnx_messages


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """A graph at a precision as bytes.

    `moved` is another folder than the blueprint's for its paths to weights to start from.
    """

    blueprint: Blueprint
    content: bytes
    moved: Path | None = None

    @property
    def root(self) -> Path:
        """The folder that the graph's paths to weights start from."""
        return self.blueprint.root if self.moved is None else self.moved

    @staticmethod
    def of(blueprint: Blueprint) -> OnnxGraph:
        """The blueprint's graph, which reads weights behind links where they are.

        Raises `BundleError` for a graph that cannot be read, `BuildFailed` for bytes that are none.
        """
        content = read_graph(blueprint)
        try:
            if not in_place(blueprint):
                content, root = _moved(content, blueprint.files)
                return OnnxGraph(blueprint, content, root)
            return OnnxGraph(blueprint, content)
        except ValueError as error:
            problem = f"{blueprint.component}: the graph cannot be read: {error}"
            raise BuildFailed(problem) from error


def in_place(blueprint: Blueprint) -> bool:
    """Whether the weights are below the graph's folder, and no link is on a path to them."""
    root = blueprint.root.resolve()
    return all(path.resolve() == root / name for name, path in blueprint.files.items())


def read_graph(blueprint: Blueprint) -> bytes:
    """The graph's bytes; raises `BundleError`."""
    try:
        return blueprint.source.read_bytes()
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise BundleError(blueprint.source, problem) from error


def _moved(graph: bytes, files: Mapping[str, Path]) -> tuple[bytes, Path]:
    """The graph with its paths to weights from a folder above all of them, and that folder."""
    resolved = {name: path.resolve() for name, path in files.items()}
    root = Path(os.path.commonpath([path.parent for path in resolved.values()]))
    model = onnx_messages.parse(graph)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = resolved[entry.value].relative_to(root).as_posix()
    return model.SerializeToString(), root
