"""Everything that one call of `latentrt compare` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.benchmarks.numerics.comparison import SCHEMA, Comparison
from latentrt.benchmarks.numerics.layer_table import LayerTable
from latentrt.benchmarks.numerics.provenance import Provenance


@dataclass(frozen=True, slots=True)
class Findings:
    """Comparisons, one for each engine and precision, and the layers that were looked at.

    `provenance` says what was compared and where, `reference` what PyTorch's answers are; `skipped`
    are the engines that were not held against them, and why; `failed` those that could not be, or
    whose layers could not, with what they said; `drawn` is how many pictures of each were judged by
    what was asked for.
    """

    provenance: Provenance
    reference: str
    comparisons: tuple[Comparison, ...]
    layers: tuple[LayerTable, ...]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]
    drawn: int = 0

    @property
    def compared(self) -> bool:
        """Whether there was anything to compare."""
        return bool(self.comparisons or self.layers)

    @property
    def within(self) -> bool:
        """Whether nothing that was compared is out of tolerance."""
        return all(each.passed for each in (*self.comparisons, *self.layers))

    @property
    def passed(self) -> bool:
        """Whether something was compared, nothing is out of tolerance, and no engine failed."""
        return self.compared and self.within and not self.failed

    def to_json(self, *, several: bool) -> dict[str, Any]:
        """As a JSON object; `docs/compare.schema.json` says what is in it.

        Unless there may be `several` comparisons, that of the one stands in the object itself.
        """
        found: dict[str, Any] = {
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "skipped": dict(self.skipped),
            "failed": dict(self.failed),
        }
        if not several and self.comparisons:
            found = self.comparisons[0].to_json()
        return {
            "schema": SCHEMA,
            **self.provenance.to_json(),
            "reference": self.reference,
            "drawn": self.drawn,
            **found,
            "layers": [table.to_json() for table in self.layers],
            "passed": self.passed,
        }
