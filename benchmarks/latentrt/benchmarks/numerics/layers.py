"""Every layer of a component compared with its module in PyTorch.

A graph's layers and PyTorch's modules are matched by the names of their parameters. An engine is
compiled with every layer as an output, so it may fuse less than the engine that draws pictures.

Imports PyTorch: `pip install 'latentrt[bench]'`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.comparison import Check
from latentrt.benchmarks.numerics.layer_graph import Layer, LayerGraph
from latentrt.benchmarks.numerics.layer_table import LayerCheck, LayerTable
from latentrt.benchmarks.numerics.reference import Reference
from latentrt.benchmarks.numerics.tolerances import layer_tolerance
from latentrt.benchmarks.numerics.torch_model import TorchModel, folder_of
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import Difference
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.registry import Chosen
from latentrt.engines.verification.tolerances import TOLERANCES
from latentrt.export.modules import TRACED
from latentrt.export.reference import loaded

ROOM: Final = 2 << 30
"""Bytes of layers' outputs that are kept at once."""

Arrays = Mapping[str, NDArray[Any]]
Hook = Callable[[str, torch.nn.Module, torch.Tensor], None]
"""Called with the name of a module, the module, and its output."""


def layer_table(
    bundle: Bundle,
    component: str,
    chosen: Chosen,
    model: TorchModel,
    reference: Reference,
    *,
    room: int = ROOM,
) -> LayerTable:
    """Compare every layer of a component with PyTorch in fp32, on the reference's inputs.

    `room` is how many bytes of layers' outputs are kept at once; one layer may take more. Where
    there are more, engine and PyTorch are evaluated several times. Raises `Unavailable` without
    onnx, and `BuildFailed`.
    """
    inputs = reference.inputs(bundle, component)
    sizes = reference.sizes(bundle, component)
    blueprint = Blueprint.of(bundle, component, sizes, chosen.precision)
    graph = LayerGraph(blueprint.source.read_bytes())
    torch_side = _TorchComponent(bundle, component, model, inputs)
    layers = {layer.name: layer for layer in graph.layers()}
    matched = tuple(layers[name] for name in layers if name in torch_side.modules)
    found: dict[str, Difference] = {}
    for group in torch_side.groups(matched, room):
        engine = _compiled(blueprint, chosen, graph.with_outputs(group), torch_side.specs(group))
        try:
            given = engine({s.name: inputs[s.name].astype(s.dtype) for s in engine.inputs})
        finally:
            engine.close()
        found |= torch_side.differences({layer.name: given[layer.output] for layer in group})
    precision = chosen.precision
    tolerance = layer_tolerance(component, precision)
    expected = tuple(reference.outputs(bundle, component).values())
    return LayerTable(
        component=component,
        engine=chosen.name,
        precision=precision,
        weights=model.name,
        own=model.own,
        layers=tuple(
            LayerCheck(
                layer.name,
                found[layer.name],
                tolerance,
                torch_side.modules[layer.name].kind,
                *graph.origin(layer, matched),
            )
            for layer in matched
        ),
        unmatched=tuple(sorted(set(layers) - {layer.name for layer in matched})),
        module=Check(component, torch_side.difference(expected), TOLERANCES["fp32"].of(component)),
    )


def _compiled(
    blueprint: Blueprint, chosen: Chosen, graph: bytes, specs: tuple[TensorSpec, ...]
) -> Engine:
    """An engine of a graph that has these outputs beside its own."""
    with tempfile.TemporaryDirectory(prefix="latentrt-") as folder:
        path = Path(folder) / blueprint.graph.name
        path.write_bytes(graph)
        outputs = (*blueprint.outputs, *specs)
        wide = replace(blueprint, graph=path, graph_fp32=path, outputs=outputs, digests=None)
        return chosen.compile(wide)


@dataclass(frozen=True, slots=True)
class _Module:
    """A module that has weights of its own: its class and the shape of its output."""

    kind: str
    shape: tuple[int, ...]


class _TorchComponent:
    """One component in PyTorch: the modules that an evaluation calls once, and their outputs."""

    def __init__(self, bundle: Bundle, component: str, model: TorchModel, inputs: Arrays) -> None:
        folder = folder_of(component)
        self._make = TRACED[component]
        self._config = model.parts[folder].config
        self._weights = model.weights[folder]
        self._inputs = {n: torch.from_numpy(np.array(a, np.float32)) for n, a in inputs.items()}
        self._outputs: Sequence[torch.Tensor] | None = None
        self.modules = self._called()

    def _called(self) -> dict[str, _Module]:
        """The modules with weights that are called once, by name; nothing is computed."""
        with torch.device("meta"):
            module = self._make(self._config).eval()
        calls: dict[str, list[_Module]] = {}

        def record(name: str, called: torch.nn.Module, output: torch.Tensor) -> None:
            made = _Module(type(called).__name__, tuple(output.shape))
            calls.setdefault(name, []).append(made)

        _run(module, {name: t.to("meta") for name, t in self._inputs.items()}, record)
        return {name: made[0] for name, made in calls.items() if len(made) == 1}

    def specs(self, layers: Sequence[Layer]) -> tuple[TensorSpec, ...]:
        """What a graph's outputs for these layers are."""
        return tuple(TensorSpec(each.output, self.modules[each.name].shape) for each in layers)

    def groups(self, layers: Sequence[Layer], room: int) -> Iterator[tuple[Layer, ...]]:
        """The layers in groups whose outputs take at most `room` bytes, or that have one layer."""
        group: list[Layer] = []
        free = room
        for layer in layers:
            need = 4 * math.prod(self.modules[layer.name].shape)
            if group and need > free:
                yield tuple(group)
                group, free = [], room
            group.append(layer)
            free -= need
        yield tuple(group)

    def differences(self, given: Arrays) -> dict[str, Difference]:
        """How far an engine's layers are from the modules' outputs, which are not kept."""
        found: dict[str, Difference] = {}

        def compare(name: str, called: torch.nn.Module, output: torch.Tensor) -> None:
            del called
            if name in given:
                found[name] = Difference.between(given[name], output.numpy())

        with loaded(self._make, self._config, self._weights) as module:
            self._outputs = _run(module, self._inputs, compare)
        return found

    def difference(self, expected: Sequence[NDArray[Any]]) -> Difference:
        """How far the last evaluation's outputs are from others: the largest relative error."""
        assert self._outputs is not None
        pairs = zip(self._outputs, expected, strict=True)
        found = [Difference.between(output.numpy(), array) for output, array in pairs]
        return max(found, key=lambda each: each.relative)


def _run(module: Any, inputs: Mapping[str, torch.Tensor], hook: Hook) -> Sequence[torch.Tensor]:
    """Evaluate, calling `hook` with the output of every module that has weights of its own."""

    def hook_of(name: str) -> Any:
        return lambda called, taken, output: hook(name, called, output)

    handles = [
        part.register_forward_hook(hook_of(name))
        for name, part in module.named_modules()
        if next(part.parameters(recurse=False), None) is not None
    ]
    try:
        with torch.inference_mode():
            outputs = module(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs if isinstance(outputs, tuple) else (outputs,)
