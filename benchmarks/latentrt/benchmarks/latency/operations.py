"""Floating-point operations of one engine call, counted from its graph.

Matrix products, convolutions and attention count, which are all but a few per cent of a U-Net. A
multiplication and an addition are one operation each, as in vendors' peak numbers. Norms,
activations and softmax do not count.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from latentrt.benchmarks.latency.shape_folding import with_shapes
from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.engines.engine import Blueprint

_REMEDY: Final = "pip install 'latentrt[bench]'"

_Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of one call, and the numbers of the weights that it reads, each once."""

    operations: int
    weights: int


def work_of(blueprint: Blueprint) -> Work:
    """The work of one call at the blueprint's sizes.

    Raises `Unavailable` without onnx, `BuildFailed` naming a node whose shapes do not follow.
    """
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        raise Unavailable(f"counting operations: onnx is not installed; {_REMEDY}") from error
    graph = with_shapes(onnx, blueprint)
    shapes: dict[str, _Shape] = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes.update({tensor.name: tuple(tensor.dims) for tensor in graph.initializer})
    stored = (t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL)
    return Work(
        operations=sum(_node(onnx, node, shapes) for node in graph.node),
        weights=sum(math.prod(tensor.dims) for tensor in stored),
    )


def _node(onnx: Any, node: Any, shapes: Mapping[str, _Shape]) -> int:
    count = _COUNTS.get(node.op_type)
    if count is None:
        return 0
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    try:
        inputs = [shapes[name] for name in node.input if name]
        found = count(inputs, shapes[node.output[0]], given)
    except KeyError as error:
        raise BuildFailed(f"no shape is known for {error} of node {node.name}") from None
    if found <= 0:
        raise BuildFailed(f"a dimension is not known at node {node.name}")
    return found


def _matmul(inputs: list[_Shape], output: _Shape, given: Mapping[str, Any]) -> int:
    del given
    return 2 * math.prod(output) * inputs[0][-1]


def _gemm(inputs: list[_Shape], output: _Shape, given: Mapping[str, Any]) -> int:
    return 2 * math.prod(output) * inputs[0][0 if given.get("transA") else 1]


def _conv(inputs: list[_Shape], output: _Shape, given: Mapping[str, Any]) -> int:
    del given
    # A weight [outputs, inputs of a group, height, width]: each output sums up all but the first.
    return 2 * math.prod(output) * math.prod(inputs[1][1:])


def _attention(inputs: list[_Shape], output: _Shape, given: Mapping[str, Any]) -> int:
    queries, keys, _ = inputs[:3]
    if len(queries) == 4:  # [batch, heads, length, width]
        scores = math.prod(queries[:3]) * keys[2]
        widths = queries[3] + output[3]
    else:  # [batch, length, heads * width]
        scores = queries[0] * queries[1] * keys[1]
        widths = queries[2] + output[2]
    return 2 * scores * widths


_COUNTS: Final = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "Attention": _attention}
