"""Everything that one call of `latentrt compare` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.benchmarks.comparison import SCHEMA, Comparison
from latentrt.benchmarks.layer_table import LayerTable


@dataclass(frozen=True, slots=True)
class Findings:
    """Comparisons, one for each engine and precision, and the layers that were looked at.

    `bundle` is the bundle's name, `reference` says what PyTorch's answers are; `skipped` are the
    engines that could not be held against them, with what they said; `drawn` is how many pictures
    of each were judged by what was asked for.
    """

    bundle: str
    reference: str
    comparisons: tuple[Comparison, ...]
    layers: tuple[LayerTable, ...]
    skipped: Mapping[str, str]
    drawn: int = 0

    @property
    def passed(self) -> bool:
        """Whether something was compared, and nothing is out of tolerance."""
        found = (*self.comparisons, *self.layers)
        return bool(found) and all(each.passed for each in found)

    def to_json(self, *, several: bool) -> dict[str, Any]:
        """As a JSON object; unless there may be `several` comparisons, that of the one."""
        layers = [table.to_json() for table in self.layers]
        rest = {"reference": self.reference, "drawn": self.drawn}
        rest |= {"layers": layers, "passed": self.passed}
        if not several and self.comparisons:
            return {**self.comparisons[0].to_json(), **rest}
        comparisons = [comparison.to_json() for comparison in self.comparisons]
        skipped = dict(self.skipped)
        return {"schema": SCHEMA, "comparisons": comparisons, "skipped": skipped, **rest}
