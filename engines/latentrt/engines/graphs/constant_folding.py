"""A graph at fixed sizes in which no shape is computed.

For a provider that leaves to the CPU what computes shapes, and has no GroupNormalization: to ONNX
Runtime that is a function, behind which it knows no shape, and whose body computes some. Here it is
written out, and everything that follows from the sizes is a constant.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.engines.engine import Blueprint

_REMEDY: Final = "pip install 'latentrt[onnxruntime-gpu]'"
_GROUP_NORM: Final = "GroupNormalization"


def fold_constants(graph: bytes, blueprint: Blueprint) -> bytes:
    """The graph for the blueprint's sizes, without a node that gives integers.

    Raises `Unavailable` without onnx, `BuildFailed` for a graph that sizes do not fit.
    """
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        raise Unavailable(f"folding of a graph: onnx is not installed; {_REMEDY}") from error
    importlib.import_module("onnx.reference")
    dims = {s.name: s.dims for s in (*blueprint.fixed_inputs, *blueprint.fixed_outputs)}
    try:
        model: Any = onnx.load_model_from_string(graph)
        for value in (*model.graph.input, *model.graph.output):
            _fix(value, dims[value.name])
        while _fold_once(onnx, model):
            pass
        _write_out_group_norms(onnx, model)
    except Exception as error:  # protobuf's and onnx's own, which have no public base
        raise BuildFailed(f"{blueprint.component}: the graph cannot be folded: {error}") from error
    return model.SerializeToString()


def _fix(value: Any, dims: tuple[int | str, ...]) -> None:
    for dim, size in zip(value.type.tensor_type.shape.dim, dims, strict=True):
        dim.Clear()
        dim.dim_value = size


def _inferred(onnx: Any, model: Any) -> dict[str, Any]:
    """The tensor type of every value, as far as onnx infers it.

    It infers none for a GroupNormalization, which gives what it takes as to type and shape.
    """
    other: Any = onnx.ModelProto()
    other.CopyFrom(model)
    for node in other.graph.node:
        if node.op_type == _GROUP_NORM:
            node.op_type = "Identity"
            del node.input[1:]
            del node.attribute[:]
    graph = onnx.shape_inference.infer_shapes(other, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type for value in values}


def _shape(types: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """A value's shape; None where a dimension is not known."""
    if name not in types or not types[name].HasField("shape"):
        return None
    dims = types[name].shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def _fold_once(onnx: Any, model: Any) -> bool:
    """Make constants of what can be computed now; whether that was anything."""
    graph, types = model.graph, _inferred(onnx, model)
    external = onnx.TensorProto.EXTERNAL
    known: dict[str, NDArray[Any]] = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in graph.initializer
        if t.data_location != external
    }
    kept: list[Any] = []
    for node in graph.node:
        values = _computed(onnx, node, known, types)
        if values is None:
            kept.append(node)
            continue
        known.update(values)
        for name, array in values.items():
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    found = len(kept) < len(graph.node)
    del graph.node[:]
    graph.node.extend(kept)
    return found


def _computed(
    onnx: Any, node: Any, known: Mapping[str, NDArray[Any]], types: Mapping[str, Any]
) -> dict[str, NDArray[Any]] | None:
    """What a node gives, if it is a known shape or made of integers that are known."""
    if node.op_type == "Shape" and (shape := _shape(types, node.input[0])) is not None:
        limits = {a.name: a.i for a in node.attribute}
        part = shape[limits.get("start") : limits.get("end")]
        return {node.output[0]: np.array(part, np.int64)}
    names = [name for name in node.input if name]
    if not names or not all(name in known and known[name].dtype.kind in "iub" for name in names):
        return None
    evaluator: Any = onnx.reference.ReferenceEvaluator(node)
    results = evaluator.run(None, {name: known[name] for name in names})
    return {name: np.asarray(array) for name, array in zip(node.output, results, strict=True)}


def _write_out_group_norms(onnx: Any, model: Any) -> None:
    types = _inferred(onnx, model)
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type == _GROUP_NORM:
            nodes.extend(_group_norm(onnx, model.graph, node, types))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _group_norm(onnx: Any, graph: Any, node: Any, types: Mapping[str, Any]) -> list[Any]:
    """The operator's definition, at a shape that is known, in the dtype that it asks for."""
    source, scale, bias = node.input
    (target,) = node.output
    shape = _shape(types, source)
    if shape is None:
        raise ValueError(f"no shape is known for {source}")
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    stash = given.get("stash_type", onnx.TensorProto.FLOAT)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(stash)
    made: list[Any] = []

    def constant(name: str, value: NDArray[Any]) -> str:
        graph.initializer.append(onnx.numpy_helper.from_array(value, f"{target}.{name}"))
        return f"{target}.{name}"

    def add(operator: str, name: str, *inputs: str, **attributes: int) -> str:
        output = name if name == target else f"{target}.{name}"
        made.append(onnx.helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    groups = constant("groups", np.array([shape[0], given["num_groups"], -1]))
    whole = constant("whole", np.array(shape))
    channels = constant("channels", np.array([shape[1], *(1 for _ in shape[2:])]))
    last = constant("last", np.array([2]))
    epsilon = constant("epsilon", np.array(given.get("epsilon", 1e-5), dtype))
    rows = add("Reshape", "rows", add("Cast", "wide", source, to=stash), groups)
    centred = add("Sub", "centred", rows, add("ReduceMean", "mean", rows, last))
    squares = add("Mul", "squares", centred, centred)
    variance = add("Add", "variance", add("ReduceMean", "square", squares, last), epsilon)
    normal = add("Div", "normal", centred, add("Sqrt", "deviation", variance))
    back = add("Reshape", "back", normal, whole)
    narrow = add("Cast", "narrow", back, to=types[source].elem_type)
    scaled = add("Mul", "scaled", narrow, add("Reshape", "scale", scale, channels))
    add("Add", target, scaled, add("Reshape", "bias", bias, channels))
    return made
