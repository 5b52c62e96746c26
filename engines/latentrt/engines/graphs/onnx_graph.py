"""A blueprint's graph as ONNX, for what parses bytes beside a folder of weights.

A model hub's cache has a folder of links into another folder, where files are named by their hash.
ONNX Runtime follows no link that leads out of the folder which a graph's path to its weights starts
from. So such a graph is given another path, to the file itself. (OpenVINO takes no path that leads
out of the graph's own folder either.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from latentrt.bundle.errors import BuildFailed, BundleError
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs import onnx_messages


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """A graph at a precision as bytes; its blueprint's weights are where these read them."""

    blueprint: Blueprint
    content: bytes

    @staticmethod
    def of(blueprint: Blueprint) -> OnnxGraph:
        """The blueprint's graph, which reads weights behind links where they are.

        Raises `BundleError` for a graph that cannot be read, `BuildFailed` for bytes that are none.
        """
        content = read_graph(blueprint)
        try:
            if not in_place(blueprint):
                blueprint = replace(blueprint, weights=blueprint.weights.resolve())
                content = _moved(content, blueprint.weights.relative_to(blueprint.root).as_posix())
            return OnnxGraph(blueprint, content)
        except ValueError as error:
            problem = f"{blueprint.component}: the graph cannot be read: {error}"
            raise BuildFailed(problem) from error


def in_place(blueprint: Blueprint) -> bool:
    """Whether no link is on the graph's path to its weights."""
    below = blueprint.weights.relative_to(blueprint.root)
    return blueprint.weights.resolve() == blueprint.root.resolve() / below


def read_graph(blueprint: Blueprint) -> bytes:
    """The graph's bytes; raises `BundleError`."""
    try:
        return blueprint.source.read_bytes()
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise BundleError(blueprint.source, problem) from error


def _moved(graph: bytes, location: str) -> bytes:
    model = onnx_messages.parse(graph)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return model.SerializeToString()
