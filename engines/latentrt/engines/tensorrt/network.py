"""A blueprint's graph as a TensorRT network of fixed sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.bundle.errors import BuildFailed
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.onnx_graph import OnnxGraph


@dataclass(frozen=True, slots=True)
class Network:
    """A parsed graph; `parser` owns weights that `definition` reads, and has to outlive it."""

    definition: Any
    parser: Any


def parse(api: Any, builder: Any, log: Any, source: OnnxGraph) -> Network:
    """Parse a graph and its weights and fix the sizes; raises `BuildFailed` naming the node."""
    blueprint = source.blueprint
    # From TensorRT 11 on this is the only kind: each layer computes in the graph's own dtype.
    strongly_typed = 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition: Any = builder.create_network(strongly_typed)
    parser: Any = api.OnnxParser(definition, log)
    if not parser.parse(source.content, str(path_of(source))):
        raise BuildFailed(f"{blueprint.component}: {complaint(parser)}")
    _fix(definition, blueprint)
    _allow_unfused_attention(api, definition)
    return Network(definition, parser)


def path_of(source: OnnxGraph) -> Path:
    """Where the graph would lie: weights are looked up beside it."""
    return source.root / source.blueprint.graph.name


def complaint(parser: Any) -> str:
    """The first thing that a parser did not take."""
    if not parser.num_errors:
        return "TensorRT does not parse the graph"
    error = parser.get_error(0)
    if error.node() < 0:
        return f"TensorRT does not parse the graph: {error.desc()}"
    node = f"node {error.node_name()!r} ({error.node_operator()})"
    return f"TensorRT does not parse {node}: {error.code().name}, {error.desc()}"


def _fix(definition: Any, blueprint: Blueprint) -> None:
    dims = {s.name: s.dims for s in blueprint.fixed_inputs}
    found = [definition.get_input(i) for i in range(definition.num_inputs)]
    if {t.name for t in found} != set(dims):
        names = ", ".join(t.name for t in found)
        raise BuildFailed(f"{blueprint.component}: the graph's inputs are {names}")
    for tensor in found:
        tensor.shape = dims[tensor.name]


def _allow_unfused_attention(api: Any, definition: Any) -> None:
    # Fused kernels are for 16-bit heads of some sizes, and the builder refuses some of the other
    # attention (causal in float32, for one) unless it may be decomposed. It takes a fused kernel in
    # the same cases with this and without.
    for index in range(definition.num_layers):
        layer: Any = definition.get_layer(index)
        if layer.type == api.LayerType.ATTENTION_INPUT:
            # The bindings give the base class; assigning the class is their way to cast.
            layer.__class__ = api.IAttentionInputLayer
            layer.attention.decomposable = True
