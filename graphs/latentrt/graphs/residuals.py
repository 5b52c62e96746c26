"""The graph of a U-Net that takes a ControlNet's residuals, made of the U-Net's own.

A residual is added to what skips the lower levels, where an upper block joins it to its own
channels. The last is added to what leaves the middle. PyTorch traces no second graph for that.

Source: `UNet2DConditionModel.forward` of diffusers, `down_block_additional_residuals`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from latentrt.bundle.spec import TensorSpec
from latentrt.graphs import onnx_messages

_CHANNELS: Final = 1
"""The axis of channels, along which a skip connection is joined."""


def with_residuals(
    graph: bytes, residuals: Sequence[TensorSpec], dtype: str, wide: Collection[str] = ()
) -> bytes:
    """A U-Net's graph with further inputs, which are added at its skip connections.

    `residuals` are those inputs: one for each skip connection from the first to the last, then that
    of the middle. `dtype` is what the graph computes in; the nodes named in `wide` compute in
    float32. Raises `ValueError` for a graph that has not as many skip connections.
    """
    model = onnx_messages.parse(graph)
    joins = [node for node in model.graph.node if _joins_channels(node)]
    if len(joins) != len(residuals) - 1:
        problem = f"joins {len(joins)} skip connections, a ControlNet has {len(residuals) - 1}"
        raise ValueError(f"the U-Net's graph {problem}")
    inputs = {spec.name: onnx_messages.add_input(model, spec) for spec in residuals}
    *skips, middle = residuals
    added: dict[str, list[Any]] = {}

    def add(node: Any, place: int, spec: TensorSpec) -> None:
        inner = "float32" if node.name in wide else dtype
        before = added.setdefault(node.name, [])
        name = inputs[spec.name]
        if inner != spec.dtype:
            code = onnx_messages.DTYPES[inner]
            before.append(onnx_messages.node("Cast", [name], f"{name}.cast", to=code))
            name = f"{name}.cast"
        total = f"{spec.name}.added"
        before.append(onnx_messages.node("Add", [node.input[place], name], total))
        node.input[place] = total

    # Upper blocks join the last skip connection first.
    for node, spec in zip(joins, reversed(skips), strict=True):
        add(node, 1, spec)
    add(joins[0], 0, middle)
    nodes = [each for node in model.graph.node for each in (*added.get(node.name, ()), node)]
    onnx_messages.replace_nodes(model, nodes)
    return model.SerializeToString()


def _joins_channels(node: Any) -> bool:
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return node.op_type == "Concat" and len(node.input) == 2 and axes == [_CHANNELS]
