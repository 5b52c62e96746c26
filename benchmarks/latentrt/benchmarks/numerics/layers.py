"""Every layer of a component against its module in PyTorch, and where a fault arises.

A graph's layers and PyTorch's modules are matched by the names of their parameters
(`latentrt.benchmarks.numerics.watched`). An engine is compiled from the graph with every layer as
an output; it may fuse less than the engine that is used, which `compare` measures as it is.

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

from latentrt.benchmarks.numerics.layer_table import TOLERANCES, LayerRow, LayerTable
from latentrt.benchmarks.numerics.original import Original, folder_of
from latentrt.benchmarks.numerics.watched import Graph, Layer
from latentrt.benchmarks.trial import noise_for, sizes_of
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import Difference
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.registry import Chosen
from latentrt.engines.verification.judging import golden_sizes
from latentrt.engines.verification.tolerances import TOLERANCES as ENGINES
from latentrt.export.reference import loaded

ROOM: Final = 2 << 30
"""Bytes of layers' outputs that are held at once."""

Arrays = Mapping[str, NDArray[Any]]
Tell = Callable[[str, torch.nn.Module, torch.Tensor], None]
"""Told the name of a module, the module, and its output."""


def layer_table(
    bundle: Bundle, component: str, chosen: Chosen, original: Original, *, room: int = ROOM
) -> LayerTable:
    """Hold every layer of a component against PyTorch in fp32 on the same inputs.

    The inputs are the goldens', or, without goldens, seeded noise at the bundle's own size. `room`
    is how many bytes of layers' outputs are held at once, beyond a single layer's; where there are
    more, engine and PyTorch are evaluated several times. Raises `Unavailable` without onnx, and
    `BuildFailed`.
    """
    goldens = bundle.golden() if bundle.manifest.has_goldens else None
    sizes = golden_sizes(bundle, component) if goldens else None
    blueprint = Blueprint.of(bundle, component, sizes or sizes_of(bundle)[component])
    inputs = noise_for(blueprint.fixed_inputs)
    if goldens is not None:
        inputs = {name: goldens[f"{component}/inputs/{name}"] for name in inputs}
    graph = Graph(blueprint.graph.read_bytes())
    reference = _Reference(bundle, component, original, inputs)
    layers = {layer.name: layer for layer in graph.layers()}
    watched = tuple(layers[name] for name in layers if name in reference.modules)
    found: dict[str, Difference] = {}
    for group in reference.groups(watched, room):
        engine = _compiled(blueprint, chosen, graph.watched(group), reference.specs(group))
        try:
            given = engine({s.name: inputs[s.name].astype(s.dtype) for s in engine.inputs})
        finally:
            engine.close()
        found |= reference.differences({layer.name: given[layer.output] for layer in group})
    outputs = [f"{component}/outputs/{spec.name}" for spec in blueprint.outputs]
    return LayerTable(
        component=component,
        engine=chosen.name,
        precision=chosen.precision,
        weights=original.name,
        own=original.own,
        rows=tuple(
            LayerRow(
                layer.name,
                reference.modules[layer.name].kind,
                found[layer.name],
                TOLERANCES[chosen.precision].of(component),
                *graph.origin(layer, watched),
            )
            for layer in watched
        ),
        unmatched=tuple(sorted(set(layers) - {layer.name for layer in watched})),
        golden=None if goldens is None else reference.distance([goldens[n] for n in outputs]),
        golden_tolerance=ENGINES["fp32"].of(component),
    )


def _compiled(
    blueprint: Blueprint, chosen: Chosen, graph: bytes, specs: tuple[TensorSpec, ...]
) -> Engine:
    """An engine of a graph that has these outputs beside its own."""
    with tempfile.TemporaryDirectory(prefix="latentrt-") as folder:
        path = Path(folder) / blueprint.graph.name
        path.write_bytes(graph)
        outputs = (*blueprint.outputs, *specs)
        wide = replace(blueprint, graph=path, outputs=outputs, digests=None)
        return chosen.compile(wide)


@dataclass(frozen=True, slots=True)
class _Module:
    """A module that has weights of its own: its class and the shape of its output."""

    kind: str
    shape: tuple[int, ...]


class _Reference:
    """PyTorch's side of a component: the modules that an evaluation calls, and their outputs."""

    def __init__(self, bundle: Bundle, component: str, original: Original, inputs: Arrays) -> None:
        found = next(c for c in original.components if c.name == component)
        folder = folder_of(bundle, component)
        self._make = found.make
        self._config = original.parts[folder].config
        self._weights = original.weights[folder]
        self._inputs = {
            name: torch.from_numpy(np.array(a, np.float32)) for name, a in inputs.items()
        }
        self._outputs: Sequence[torch.Tensor] = ()
        self.modules = self._called()

    def _called(self) -> dict[str, _Module]:
        """The modules with weights that are called once, by name; nothing is computed."""
        with torch.device("meta"):
            module = self._make(self._config).eval()
        calls: dict[str, list[_Module]] = {}

        def record(name: str, called: torch.nn.Module, output: torch.Tensor) -> None:
            made = _Module(type(called).__name__, tuple(output.shape))
            calls.setdefault(name, []).append(made)

        meta = {name: tensor.to("meta") for name, tensor in self._inputs.items()}
        _run(module, meta, record)
        return {name: made[0] for name, made in calls.items() if len(made) == 1}

    def specs(self, layers: Sequence[Layer]) -> tuple[TensorSpec, ...]:
        """The outputs of a graph in which these layers are watched."""
        return tuple(TensorSpec(each.output, self.modules[each.name].shape) for each in layers)

    def groups(self, layers: Sequence[Layer], room: int) -> Iterator[tuple[Layer, ...]]:
        """The layers in groups whose outputs take up to so many bytes, or that are of one."""
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

        def hold(name: str, called: torch.nn.Module, output: torch.Tensor) -> None:
            del called
            if name in given:
                found[name] = Difference.between(given[name], output.numpy())

        with loaded(self._make, self._config, self._weights) as module:
            self._outputs = _run(module, self._inputs, hold)
        return found

    def distance(self, expected: Sequence[NDArray[Any]]) -> float:
        """How far the outputs of the evaluation behind us are from others: the largest relative."""
        pairs = zip(self._outputs, expected, strict=True)
        return max(Difference.between(o.numpy(), e).relative for o, e in pairs)


def _run(module: Any, inputs: Mapping[str, torch.Tensor], tell: Tell) -> Sequence[torch.Tensor]:
    """Evaluate, telling the output of every module that has weights of its own."""

    def hook(name: str) -> Any:
        return lambda called, taken, output: tell(name, called, output)

    handles = [
        part.register_forward_hook(hook(name))
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
