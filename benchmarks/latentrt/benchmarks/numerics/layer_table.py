"""The layers of a component beside PyTorch's, as data, and where a fault arises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from latentrt.benchmarks.numerics.comparison import finite
from latentrt.bundle.golden import Difference


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest relative error of a layer's output, by kind of component."""

    text_encoder: float
    unet: float
    vae: float

    def of(self, component: str) -> float:
        """The tolerance of a component by name."""
        if component.startswith("text_encoder"):
            return self.text_encoder
        return self.unet if component == "unet" else self.vae


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    # Rounding alone, three to five times the most that was measured over the tiny models of the
    # tests, models/shapes and random:sd15 at 512x512, with ONNX Runtime and OpenVINO: text encoder
    # 1.2e-6, U-Net 5.8e-6 (sines of timesteps near 1000, and what is projected from them), VAE
    # 3.9e-5 (ONNX Runtime's GroupNormalization of 2 million numbers; OpenVINO 3.3e-6). A weight
    # that is 1 % off moves its own layer by 1e-3 or more.
    "fp32": Tolerance(text_encoder=5e-6, unet=2.5e-5, vae=1.2e-4),
    # Those of whole components, which were not measured either.
    "fp16": Tolerance(text_encoder=5e-3, unet=1e-2, vae=1e-2),
    # Four to five times the most over the tiny models and models/shapes with OpenVINO: 7.1e-3,
    # 1.1e-2, 2.0e-2. A weight that is 1 % off does not show above that.
    "bf16": Tolerance(text_encoder=3e-2, unet=5e-2, vae=8e-2),
}


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer: its module's name and class, and how far the engine's output is from PyTorch's.

    `before` are the nearest layers that it is computed from, `tensors` the weights that are read
    between them and its output.
    """

    name: str
    kind: str
    difference: Difference
    tolerance: float
    before: tuple[str, ...]
    tensors: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the relative error is within the tolerance."""
        return self.difference.relative <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers become null."""
        return {
            "name": self.name,
            "kind": self.kind,
            **finite(asdict(self.difference)),
            "tolerance": self.tolerance,
            "before": list(self.before),
            "tensors": list(self.tensors),
        }


@dataclass(frozen=True, slots=True)
class LayerTable:
    """The layers of one component in the order in which an engine computes them.

    `weights` says whose PyTorch took; `own` that they were the bundle's, in which a fault does not
    show here, since the engine reads it too. `golden` is how far PyTorch is from the goldens with
    them (relative), None where there are no goldens: more than rounding means that the goldens were
    made with other weights. `unmatched` are layers of the graph that no module is called for, such
    as positions: what they do is seen in the layer behind them.
    """

    component: str
    engine: str
    precision: str
    weights: str
    own: bool
    rows: tuple[LayerRow, ...]
    unmatched: tuple[str, ...]
    golden: float | None
    golden_tolerance: float

    @property
    def origins(self) -> tuple[LayerRow, ...]:
        """Layers out of tolerance though every layer before them is within: where faults arise."""
        tainted: dict[str, bool] = {}
        found: list[LayerRow] = []
        for row in self.rows:
            inherited = any(tainted[name] for name in row.before)
            tainted[row.name] = inherited or not row.passed
            if not (inherited or row.passed):
                found.append(row)
        return tuple(found)

    @property
    def other_weights(self) -> bool:
        """Whether the goldens were made with other weights than PyTorch took."""
        return self.golden is not None and not self.golden <= self.golden_tolerance

    @property
    def coverage(self) -> str:
        """How many of the graph's layers were compared, in words."""
        total = len(self.rows) + len(self.unmatched)
        return f"{len(self.rows) or 'nothing'} matched of {total} layers in the graph"

    @property
    def passed(self) -> bool:
        """Whether layers were compared, and no fault was found."""
        return bool(self.rows) and not self.origins and not self.other_weights

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers become null."""
        return {
            "component": self.component,
            "engine": self.engine,
            "precision": self.precision,
            "weights": self.weights,
            "first": self.origins[0].name if self.origins else None,
            "origins": [row.name for row in self.origins],
            "golden": None if self.golden is None else finite({"golden": self.golden})["golden"],
            "other_weights": self.other_weights,
            "unmatched": list(self.unmatched),
            "layers": [row.to_json() for row in self.rows],
            "passed": self.passed,
        }
