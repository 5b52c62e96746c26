"""What a comparison was made with: whose weights, and on what machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.benchmarks.machine import Machine
from latentrt.bundle.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Provenance:
    """A bundle, without its place, and the machine that its engines ran on.

    `bundle` is the bundle's name and `source` that of the checkpoint it was exported from; `dtype`
    is how its weights are stored; `written` are the versions that wrote it, PyTorch's among them,
    whose answers it stores.
    """

    bundle: str
    source: str
    family: str
    dtype: str
    written: Mapping[str, str]
    machine: Machine

    @staticmethod
    def of(bundle: Bundle) -> Provenance:
        """Of a bundle that is compared here and now."""
        manifest = bundle.manifest
        return Provenance(
            bundle=bundle.path.name,
            source=manifest.source,
            family=manifest.family,
            dtype=manifest.dtype,
            written=dict(manifest.versions or {}),
            machine=Machine.here(),
        )

    def __str__(self) -> str:
        machine = self.machine
        packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
        return (
            f"{self.bundle}: {self.source} in {self.dtype}, exported with torch "
            f"{self.written.get('torch', 'unknown')}; {machine.processor}, {machine.cores} cores; "
            f"Python {machine.python}, {packages}"
        )

    def to_json(self) -> dict[str, Any]:
        """As the JSON objects `bundle` and `machine`."""
        bundle = {
            "name": self.bundle,
            "source": self.source,
            "family": self.family,
            "dtype": self.dtype,
            "written": dict(self.written),
        }
        return {"bundle": bundle, "machine": self.machine.to_json()}
