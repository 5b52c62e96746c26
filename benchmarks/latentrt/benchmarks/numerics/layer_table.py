"""The layers of a component compared with PyTorch's, and in which of them a fault begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.benchmarks.numerics.comparison import Check, finite, relative


@dataclass(frozen=True, slots=True)
class LayerCheck(Check):
    """One layer, named as its module in PyTorch; `kind` is the module's class.

    `before` are the nearest layers that it is computed from; `tensors` are the weights that are
    read between them and its output.
    """

    kind: str
    before: tuple[str, ...]
    tensors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers become null."""
        own = {"kind": self.kind, "before": list(self.before), "tensors": list(self.tensors)}
        return {**Check.to_json(self), **own}

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.kind}), relative error {relative(self):.1e}, tolerance"
            f" {self.tolerance:.1e}; the layers before it are within tolerance; it reads"
            f" {', '.join(self.tensors)}"
        )


@dataclass(frozen=True, slots=True)
class LayerTable:
    """The layers of one component in the order in which an engine computes them.

    `weights` says whose weights PyTorch had, `own` that they were the bundle's. `unmatched` are
    layers of the graph without a module that is called once, such as positions; their faults show
    in the layer behind them. `module` is PyTorch's whole component beside the reference's outputs:
    out of tolerance, the reference was made with other weights.
    """

    component: str
    engine: str
    precision: str
    weights: str
    own: bool
    layers: tuple[LayerCheck, ...]
    unmatched: tuple[str, ...]
    module: Check

    @property
    def name(self) -> str:
        """The engine and its precision."""
        return f"{self.engine} {self.precision}"

    @property
    def origins(self) -> tuple[LayerCheck, ...]:
        """Layers out of tolerance whose layers before them, all of them, are within."""
        faulty: dict[str, bool] = {}
        found: list[LayerCheck] = []
        for layer in self.layers:
            inherited = any(faulty[name] for name in layer.before)
            faulty[layer.name] = inherited or not layer.passed
            if not (inherited or layer.passed):
                found.append(layer)
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether layers were compared, and no fault was found."""
        return bool(self.layers) and not self.origins and self.module.passed

    def verdict(self) -> list[str]:
        """Sentences: how many layers were compared, and where faults begin."""
        total = len(self.layers) + len(self.unmatched)
        matched = f"{len(self.layers)} of {total} layers in the graph compared"
        lines = [matched if self.layers else f"FAILED: {matched}"]
        if not self.module.passed:
            lines.append(
                f"the reference was made with other weights than {self.weights}: PyTorch's output"
                f" differs from it by {relative(self.module):.1e}"
            )
        if self.origins:
            lines += [f"first layer out of tolerance: {layer}" for layer in self.origins[:1]]
            lines += [f"also out of tolerance: {layer}" for layer in self.origins[1:]]
        elif self.layers:
            worst = max(self.layers, key=relative)
            lines.append(f"all within tolerance, the worst {worst.name} ({relative(worst):.1e})")
        return lines

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers become null."""
        origins = [layer.name for layer in self.origins]
        found: Mapping[str, float] = {"module_error": relative(self.module)}
        return {
            "component": self.component,
            "engine": self.engine,
            "precision": self.precision,
            "weights": self.weights,
            "first": origins[0] if origins else None,
            "origins": origins,
            **finite(found),
            "other_weights": not self.module.passed,
            "unmatched": list(self.unmatched),
            "layers": [layer.to_json() for layer in self.layers],
            "passed": self.passed,
        }
