"""What a benchmark measures: one image of a bundle, by these engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.runtime import Request


@dataclass(frozen=True, slots=True)
class Workload:
    """A bundle and a request for one image; `engine` are arguments of `Pipeline.open`."""

    bundle: Path
    engine: Mapping[str, Any]
    request: Request

    def to_json(self) -> dict[str, Any]:
        """As a JSON object that `from_json` reads; starting latents are not in it."""
        return {
            "bundle": str(self.bundle),
            "engine": dict(self.engine),
            "request": self.request.to_json(),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Workload:
        """From what `to_json` gave."""
        request = Request.from_json(value["request"])
        return Workload(Path(value["bundle"]), value["engine"], request)
