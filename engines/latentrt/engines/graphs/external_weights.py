"""A graph whose weights lie where its path to them leads only through links.

A model hub's cache has a folder of links into another folder, where files are named by their hash.
ONNX Runtime follows no link that leads out of the folder which a graph's path to its weights starts
from. So such a graph is given another path, to the file itself. (OpenVINO takes no path that leads
out of the graph's own folder either.)
"""

from __future__ import annotations

from dataclasses import replace

from latentrt.bundle.errors import BuildFailed, BundleError
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs import onnx_messages


def in_place(blueprint: Blueprint) -> bool:
    """Whether no link is on the graph's path to its weights."""
    below = blueprint.weights.relative_to(blueprint.root)
    return blueprint.weights.resolve() == blueprint.root.resolve() / below


def followed(blueprint: Blueprint) -> tuple[Blueprint, bytes]:
    """The blueprint with its weights behind all links, and its graph, which reads them there.

    Raises `BundleError` for a graph that cannot be read, `BuildFailed` for bytes that are none.
    """
    graph = read_graph(blueprint)
    if in_place(blueprint):
        return blueprint, graph
    real = replace(blueprint, weights=blueprint.weights.resolve())
    return real, _moved(real, graph, real.weights.relative_to(real.root).as_posix())


def read_graph(blueprint: Blueprint) -> bytes:
    """The graph's bytes; raises `BundleError`."""
    try:
        return blueprint.graph.read_bytes()
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise BundleError(blueprint.graph, problem) from error


def _moved(blueprint: Blueprint, graph: bytes, location: str) -> bytes:
    try:
        model = onnx_messages.parse(graph)
    except ValueError as error:
        problem = f"{blueprint.component}: the graph cannot be read: {error}"
        raise BuildFailed(problem) from error
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return model.SerializeToString()
