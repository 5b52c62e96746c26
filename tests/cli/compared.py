"""What `latentrt compare --json` printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from tests.cli.outcome import Outcome

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "compare.schema.json").read_text())


def told(done: Outcome) -> Any:
    """What `--json` printed: one object, which is of its schema."""
    value = json.loads(done.out)
    jsonschema.validate(value, SCHEMA)
    return value
