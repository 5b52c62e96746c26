"""A float16 graph as one of another dtype.

Tracing takes minutes, and PyTorch gives one graph at every dtype but for the casts. A float16 graph
has them all: those to float32 of what it computes wider, and those back. So it is traced, and the
others are made of it.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from latentrt.export.casts import dtypes_of

_HALF: Final = ir.DataType.FLOAT16


def retype(model: ir.Model, dtype: ir.DataType) -> None:
    """Let a float16 graph be one of `dtype`, in place; its parameters have no bytes yet.

    Raises `ValueError` for a constant in float16: in a wider dtype it may be another number.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype == _HALF:
            value.type = ir.TensorType(dtype)
    for value in model.graph.initializers.values():
        if value.dtype == _HALF:
            if value.const_value is not None:
                raise ValueError(f"constant {value.name!r} is float16")
            value.type = ir.TensorType(dtype)
    for node in model.graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _HALF:
                raise ValueError(f"{node.op_type} {node.name!r} has a constant in float16")
        if node.op_type == "Cast" and node.attributes.get_int("to") == _HALF:
            node.attributes["to"] = ir.AttrInt64("to", dtype)
    _remove_casts_of(model, dtype)


def _remove_casts_of(model: ir.Model, dtype: ir.DataType) -> None:
    """Remove the casts of a dtype to itself."""
    dtypes = dtypes_of(model)
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Cast" else None
        if source is not None and dtypes[source] == dtypes[node.outputs[0]] == dtype:
            assert not node.outputs[0].is_graph_output()
            node.outputs[0].replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
