"""The committed measurements are of their schemas, as their numbers' readers take them to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = "benchmarks/results"
DOCS = ROOT / "docs"
SCHEMAS = {
    "bench": "bench-*.json",
    "peers": "peers-*.json",
}
FILES = [
    (schema, str(path.relative_to(ROOT / RESULTS)))
    for schema, pattern in SCHEMAS.items()
    for path in sorted((ROOT / RESULTS).rglob(pattern))
]


def no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON's")


@pytest.mark.parametrize(("schema", "name"), FILES)
def test_a_committed_measurement_is_of_its_schema(schema: str, name: str) -> None:
    value = json.loads((ROOT / RESULTS / name).read_text(), parse_constant=no_number)
    expected = json.loads((DOCS / f"{schema}.schema.json").read_text())
    found = jsonschema.Draft202012Validator(expected).iter_errors(value)
    assert [f"{each.json_path}: {each.message[:200]}" for each in found] == []


def test_speed_and_other_libraries_have_committed_measurements() -> None:
    assert {schema for schema, _ in FILES} == set(SCHEMAS)
