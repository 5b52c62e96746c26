"""A graph at fixed sizes, with a shape for every value.

onnx infers no shape behind what computes shapes, or behind a GroupNormalization. Here both are
known: what follows from the sizes becomes a constant, and a norm gives the shape that it takes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed
from latentrt.engines.engine import Blueprint

_GROUP_NORM: Final = "GroupNormalization"


def with_shapes(onnx: Any, blueprint: Blueprint) -> Any:
    """The blueprint's graph as it is stored, at its sizes, in which every value has a shape.

    Its norms are an `Identity`. Raises `BuildFailed` for a graph that the sizes do not fit.
    """
    importlib.import_module("onnx.reference")
    dims = {s.name: s.dims for s in (*blueprint.fixed_inputs, *blueprint.fixed_outputs)}
    try:
        model: Any = onnx.load_model_from_string(blueprint.graph.read_bytes())
        for value in (*model.graph.input, *model.graph.output):
            _fix(value, dims[value.name])
        for node in model.graph.node:
            if node.op_type == _GROUP_NORM:
                node.op_type = "Identity"
                del node.input[1:]
                del node.attribute[:]
        while _fold_once(onnx, model):
            pass
        return onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # protobuf's and onnx's own, which have no public base
        problem = f"{blueprint.component}: shapes cannot be inferred: {error}"
        raise BuildFailed(problem) from error


def _fix(value: Any, dims: tuple[int | str, ...]) -> None:
    for dim, size in zip(value.type.tensor_type.shape.dim, dims, strict=True):
        dim.Clear()
        dim.dim_value = size


def _inferred(onnx: Any, model: Any) -> dict[str, Any]:
    """The tensor type of every value, as far as onnx infers it."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
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
