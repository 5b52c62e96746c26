"""Everything that one call of `latentrt compare` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.numerics.comparison import Comparison
from latentrt.benchmarks.numerics.layer_table import LayerTable
from latentrt.bundle.bundle import Bundle

SCHEMA: Final = 5
"""Of the JSON, which docs/compare.schema.json describes."""


@dataclass(frozen=True, slots=True)
class Findings:
    """A comparison for each engine and precision, and the layers that were looked at.

    `bundle` is what `bundle_summary` gives; `reference` says what the numbers of PyTorch are.
    `skipped` are engines that were not compared, with the reason; `failed` are engines, or their
    layers of a component, that raised an error, with its text.
    """

    bundle: Mapping[str, Any]
    machine: Machine
    reference: str
    comparisons: tuple[Comparison, ...]
    layers: tuple[LayerTable, ...]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]

    @property
    def compared(self) -> bool:
        """Whether anything was compared."""
        return bool(self.comparisons or self.layers)

    @property
    def within(self) -> bool:
        """Whether everything that was compared is within its tolerance."""
        return all(each.passed for each in (*self.comparisons, *self.layers))

    @property
    def passed(self) -> bool:
        """Whether something was compared, all of it is within tolerance, and no engine failed."""
        return self.compared and self.within and not self.failed

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        if self.passed:
            return "within tolerance"
        if not self.compared:
            return "nothing was compared"
        return "FAILED" if self.within else "OUT OF TOLERANCE"

    @property
    def made_with(self) -> str:
        """The bundle, the machine and the versions, in one line."""
        bundle, machine = self.bundle, self.machine
        packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
        return (
            f"{bundle['name']}: {bundle['source']} in {bundle['dtype']}, exported with torch "
            f"{bundle['written'].get('torch', 'unknown')}; {machine.processor}, {machine.cores} "
            f"cores; Python {machine.python}, {packages}"
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; docs/compare.schema.json says what is in it."""
        return {
            "schema": SCHEMA,
            "bundle": dict(self.bundle),
            "machine": self.machine.to_json(),
            "reference": self.reference,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "skipped": dict(self.skipped),
            "failed": dict(self.failed),
            "layers": [table.to_json() for table in self.layers],
            "passed": self.passed,
        }


def bundle_summary(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, without its place: name, source, family, dtype, and who wrote it.

    `written` are versions of packages, PyTorch among them, whose numbers the bundle stores.
    """
    manifest = bundle.manifest
    return {
        "name": bundle.path.name,
        "source": manifest.source,
        "family": manifest.family,
        "dtype": manifest.dtype,
        "written": dict(manifest.versions or {}),
    }
