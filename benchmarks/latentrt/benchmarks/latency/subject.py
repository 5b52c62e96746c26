"""What a benchmark measures: a bundle, the engines of its components, and one picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.benchmarks.latency.stopwatch import Stopwatch
from latentrt.bundle.bundle import Bundle
from latentrt.engines.cache.cache import Cache
from latentrt.runtime import Request


@dataclass(frozen=True, slots=True)
class Subject:
    """One picture is asked for; what else there is, is as in `Pipeline.open`."""

    bundle: Path
    engine: str
    precision: str
    options: Mapping[str, object]
    components: Mapping[str, str]
    request: Request

    def open(self, cache: Cache | None = None) -> Stopwatch:
        """Its pipeline, engines from `cache` or the user's own.

        Raises what `Pipeline.open` raises.
        """
        bundle = Bundle.open(self.bundle)
        asked = (self.engine, self.precision, self.options, self.components)
        return Stopwatch(bundle, *asked, cache=cache)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object that `from_json` reads; starting latents are not in it."""
        return {
            "bundle": str(self.bundle),
            "engine": self.engine,
            "options": {"precision": self.precision, **self.options},
            "components": dict(self.components),
            "request": self.request.to_json(),
        }

    @staticmethod
    def read(path: Path) -> Subject:
        """From a file with what `to_json` gives."""
        value = json.loads(path.read_text(encoding="utf-8"))
        options = dict(value["options"])
        return Subject(
            bundle=Path(value["bundle"]),
            engine=value["engine"],
            precision=options.pop("precision"),
            options=options,
            components=value["components"],
            request=Request.from_json(value["request"]),
        )
