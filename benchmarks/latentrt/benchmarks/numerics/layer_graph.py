"""The layers of a graph: where each layer's output is, and a copy of the graph that returns it.

A graph's weights keep the checkpoint's names. So the output of PyTorch's module `X` is the value
behind the last node that applies one of the tensors `X.*`. A weight may be transposed or cast
before it is applied; a bias is added by a node of its own behind a product.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from latentrt.bundle.errors import Unavailable

_REMEDY: Final = "pip install 'latentrt[bench]'"
_PREFIX: Final = "layer:"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in a graph: its module's name, and the graph's value that its output is."""

    name: str
    value: str

    @property
    def output(self) -> str:
        """Its name among the outputs of `LayerGraph.with_outputs`."""
        return f"{_PREFIX}{self.name}"


class LayerGraph:
    """A bundle's graph; raises `Unavailable` where onnx is not installed."""

    def __init__(self, content: bytes) -> None:
        try:
            self._onnx: Any = importlib.import_module("onnx")
        except ImportError as error:
            raise Unavailable(f"layers need onnx, which is not installed: {_REMEDY}") from error
        self._model: Any = self._onnx.load_model_from_string(content)
        graph = self._model.graph
        external = self._onnx.TensorProto.EXTERNAL
        self._weights = {t.name for t in graph.initializer if t.data_location == external}
        self._constants = {t.name for t in graph.initializer}
        self._makers: dict[str, Any] = {out: node for node in graph.node for out in node.output}

    def layers(self) -> tuple[Layer, ...]:
        """Every layer that has weights, in the order in which they are computed."""
        constant = set(self._constants)
        behind: dict[str, set[str]] = {name: {name} for name in self._weights}
        last: dict[str, str] = {}
        for node in self._model.graph.node:
            read = set[str]().union(*(behind.get(name, ()) for name in node.input))
            if all(name in constant for name in node.input if name):
                constant.update(node.output)
                behind.update(dict.fromkeys(node.output, read))
                continue
            for layer in {tensor.rpartition(".")[0] for tensor in read}:
                last.pop(layer, None)  # so that it moves to the end
                last[layer] = node.output[0]
        return tuple(Layer(name, value) for name, value in last.items())

    def origin(
        self, layer: Layer, known: Collection[Layer]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The nearest known layers that a layer is computed from, by name.

        Then the weights that are read between them and its output.
        """
        others = {other.value: other.name for other in known if other != layer}
        found: set[str] = set()
        tensors: set[str] = set()
        seen: set[str] = set()
        pending = [layer.value]
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in others:
                found.add(others[name])
            elif name in self._weights:
                tensors.add(name)
            elif name in self._makers:
                pending.extend(self._makers[name].input)
        return tuple(other.name for other in known if other.name in found), tuple(sorted(tensors))

    def with_outputs(self, layers: Collection[Layer]) -> bytes:
        """The graph with these layers as outputs beside its own, in float32."""
        onnx = self._onnx
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        single = onnx.TensorProto.FLOAT
        for layer in layers:
            cast = onnx.helper.make_node("Cast", [layer.value], [layer.output], to=single)
            model.graph.node.append(cast)
            value = onnx.helper.make_tensor_value_info(layer.output, single, None)
            model.graph.output.append(value)
        return model.SerializeToString()
