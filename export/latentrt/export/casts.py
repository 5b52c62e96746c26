"""Casts in a graph: float32 at the border of a bfloat16 one, float32 islands in a float16 one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import onnx
import onnx_ir as ir

READS_SHAPE: Final = frozenset({"Shape", "Size"})
"""Operators that take any type and read no value."""


def border_in_float32(model: ir.Model, dtype: ir.DataType) -> None:
    """Let inputs and outputs of a dtype be float32 under the same names, and cast inside."""
    for value in model.graph.inputs:
        if value.dtype == dtype:
            inner = _like(value, dtype)
            value.replace_all_uses_with(inner)
            value.type = ir.TensorType(ir.DataType.FLOAT)
            _insert_cast(model, value, inner)
    for value in list(model.graph.outputs):
        if value.dtype == dtype:
            outer = _like(value, ir.DataType.FLOAT)
            _become_output(model, value, outer)
            _insert_cast(model, value, outer)


def nodes_in_float32(model: ir.Model, names: Collection[str]) -> None:
    """Let the named nodes of a float16 graph compute in float32.

    Values between them are float32. Values from and to other nodes, and the graph's outputs, stay
    float16.
    """
    dtypes = dtypes_of(model)
    nodes = list(model.graph)
    inside = {node for node in nodes if node.name in names}
    given: dict[ir.Value, ir.Value] = {}  # float32 by the float16 value that others read
    for node in nodes:
        if node in inside:
            given |= _widen_outputs(model, node, dtypes)
    taken: dict[ir.Value, ir.Value] = {}  # float32 by the float16 value that it is cast from
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value in given and (node in inside or node.op_type in READS_SHAPE):
                node.replace_input_with(index, given[value])
            elif value is not None and node in inside and dtypes.get(value) == ir.DataType.FLOAT16:
                if value not in taken:
                    taken[value] = _like(value, ir.DataType.FLOAT)
                    _insert_cast(model, value, taken[value], before=node)
                node.replace_input_with(index, taken[value])
    for narrow in given:
        cast = narrow.producer()
        if cast is not None and not narrow.uses() and not narrow.is_graph_output():
            model.graph.remove(cast, safe=True)


def dtypes_of(model: ir.Model) -> dict[ir.Value, ir.DataType]:
    """The dtype of every value, by the schemas of the operators.

    onnx's own inference stops at GroupNormalization, a function whose types it does not infer.
    """
    known: dict[ir.Value, ir.DataType] = {}
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        assert value.dtype is not None
        known[value] = value.dtype
    for node in model.graph:
        schema = onnx.defs.get_schema(node.op_type, model.opset_imports[""])
        bound: dict[str, ir.DataType] = {}
        for index, value in enumerate(node.inputs):
            if value is not None:
                bound[_kind(schema.inputs, index)] = known[value]
        for index, value in enumerate(node.outputs):
            kind = _kind(schema.outputs, index)
            known[value] = bound[kind] if kind in bound else _stated(node, schema, kind)
    return known


def _kind(of: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    # The last of an operator's inputs or outputs may be variadic.
    return of[min(index, len(of) - 1)].type_str


def _stated(node: ir.Node, schema: onnx.defs.OpSchema, kind: str) -> ir.DataType:
    """The dtype of a node's output that no input determines."""
    if node.op_type == "Cast":
        return ir.DataType(node.attributes.get_int("to"))
    if node.op_type == "ConstantOfShape":
        value = node.attributes.get_tensor("value")
        return ir.DataType.FLOAT if value is None else value.dtype
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    (only,) = allowed.get(kind, [kind])
    return ir.DataType[only.removeprefix("tensor(").removesuffix(")").upper()]


def _widen_outputs(
    model: ir.Model, node: ir.Node, dtypes: Mapping[ir.Value, ir.DataType]
) -> dict[ir.Value, ir.Value]:
    """Each float16 output becomes float32, and a Cast of it stands in its place."""
    given: dict[ir.Value, ir.Value] = {}
    for value in node.outputs:
        if dtypes[value] != ir.DataType.FLOAT16:
            continue
        narrow = _like(value, ir.DataType.FLOAT16)
        if value.is_graph_output():
            _become_output(model, value, narrow)
        value.replace_all_uses_with(narrow)
        _insert_cast(model, value, narrow)
        given[narrow] = value
    if given and node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
    return given


def _like(value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A new value of the same shape in another dtype."""
    name = f"{value.name}.{dtype.numpy().name}"
    return ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))


def _become_output(model: ir.Model, value: ir.Value, other: ir.Value) -> None:
    """Let another value be the graph's output in a value's place and under its name."""
    value.name, other.name = f"{value.name}.inner", value.name
    model.graph.outputs[model.graph.outputs.index(value)] = other
    value.shape = value.type = None  # as of every inner value


def _insert_cast(
    model: ir.Model, value: ir.Value, cast: ir.Value, before: ir.Node | None = None
) -> None:
    assert cast.dtype is not None
    to = ir.AttrInt64("to", cast.dtype)
    node = ir.Node("", "Cast", [value], [to], outputs=[cast], name=f"cast_{cast.name}")
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, node)
    else:
        model.graph.insert_before(before or model.graph[0], node)
