"""A 16-bit graph as one in float32, over the same stored weights.

For backends that compute in the graph's own dtypes: what they then compute is fp32 arithmetic on
the weights as they are stored. Inputs and outputs are float32 too. An output rounded to float16
would be 2e-4 off, a hundred times the tolerance of fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx

# The attributes by which operators of the standard name a dtype.
_DTYPES: Final = frozenset(
    {
        "dtype",
        "output_datatype",
        "output_dtype",
        "precision",
        "softmax_precision",
        "stash_type",
        "to",
    }
)


def to_float32(graph: bytes) -> bytes:
    """The graph with every float16 and bfloat16 in it made float32.

    Behind each weight that is stored in 16 bits stands a Cast; the weight keeps its name and its
    place in the file. Raises `ValueError` for bytes that are no graph.
    """
    try:
        model: Any = onnx.load_model_from_string(graph)
    except Exception as error:  # protobuf's, which has no public name
        raise ValueError(str(error)) from error
    _widen_graph(model.graph, {})
    return model.SerializeToString()


def _widen_graph(graph: Any, outer: Mapping[str, str]) -> None:
    """Widen a graph in place; `outer` is what is now read for weights of the graphs around it."""
    weights = _stored_narrow(graph)
    wide = {name: f"{name}.widened" for name in weights}
    casts = [_cast(*names) for names in wide.items()]
    read = {**outer, **wide}
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        narrow = value.type.tensor_type.elem_type in _codes()
        if narrow and value.name not in weights:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for value in graph.output:
        value.name = read.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [read.get(name, name) for name in node.input]
        for attribute in node.attribute:
            _widen_attribute(attribute, read)
    # Nodes are listed in an order in which they can be computed.
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _widen_attribute(attribute: Any, read: Mapping[str, str]) -> None:
    if attribute.name in _DTYPES and attribute.i in _codes():
        attribute.i = onnx.TensorProto.FLOAT
    for tensor in (attribute.t, *attribute.tensors):
        _widen_tensor(tensor)
    # Writing to a graph that an attribute has not would give it one.
    for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
        _widen_graph(graph, read)


def _widen_tensor(tensor: Any) -> None:
    if tensor.data_type in _codes() and tensor.data_location != onnx.TensorProto.EXTERNAL:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _stored_narrow(graph: Any) -> list[str]:
    external = onnx.TensorProto.EXTERNAL
    return [
        t.name for t in graph.initializer if t.data_type in _codes() and t.data_location == external
    ]


def _cast(source: str, target: str) -> Any:
    return onnx.helper.make_node("Cast", [source], [target], target, to=onnx.TensorProto.FLOAT)


def _codes() -> tuple[int, int]:
    return onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
