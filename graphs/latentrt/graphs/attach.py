"""A traced graph and the weights that it reads.

A traced graph names its parameters and has none of their bytes. `attach` points each at a range of
a file, as ONNX's external data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from latentrt.bundle.spec import TensorSpec
from latentrt.bundle.stored_tensors import Location
from latentrt.bundle.tensors import Entry
from latentrt.graphs import onnx_messages

NOWHERE: Final = "-"
"""The file that a parameter of a traced graph names before it is attached."""


def attach(
    graph: bytes, locations: Mapping[str, Location], inputs: Sequence[TensorSpec] = ()
) -> bytes:
    """Point every parameter at its bytes, and give it the shape that it has there.

    A graph does not depend on the number of input channels or tokens, so one graph serves
    checkpoints that differ in these: `inputs` are the inputs as this checkpoint has them. Raises
    `ValueError` for bytes that are no graph, for a parameter without a location, and for one of
    another dtype.
    """
    model = onnx_messages.parse(graph)
    for tensor in parameters(model):
        if tensor.name not in locations:
            raise ValueError(f"tensor {tensor.name!r} has no location")
        _point(tensor, *locations[tensor.name])
    dims = {spec.name: spec.dims for spec in inputs}
    for value in model.graph.input:
        shape = value.type.tensor_type.shape.dim
        for dim, size in zip(shape, dims.get(value.name, ()), strict=False):
            if isinstance(size, int):
                dim.dim_value = size
    return model.SerializeToString()


def parameters(model: Any) -> list[Any]:
    """The initialisers of a parsed graph whose bytes lie in another file."""
    return [tensor for tensor in model.graph.initializer if tensor.external_data]


def shapes(graph: bytes) -> dict[str, tuple[int, ...]]:
    """The shapes of a graph's parameters by name; raises `ValueError` for bytes that are none."""
    return {t.name: tuple(t.dims) for t in parameters(onnx_messages.parse(graph))}


def _point(tensor: Any, file: str, entry: Entry) -> None:
    code = onnx_messages.DTYPES.get(entry.dtype.name)
    if tensor.data_type != code:
        raise ValueError(f"tensor {tensor.name!r} is {entry.dtype}, which the graph does not read")
    tensor.dims[:] = entry.shape
    del tensor.external_data[:]
    for key, value in (("location", file), ("offset", entry.begin), ("length", entry.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
