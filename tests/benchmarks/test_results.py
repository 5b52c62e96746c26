"""The committed measurements are of their schemas, as their numbers' readers take them to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import jsonschema
import pytest

from latentrt.benchmarks.tables import RESULTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SCHEMAS = {"bench": "bench-*.json", "compare": "compare-*.json", "contest": "peers-*.json"}
EARLIER = {"peers-sd15.json": "latentrt-contest-1"}
"""Measured when their schema was an earlier one, which their readers know too."""
FILES = [
    (schema, path.name)
    for schema, pattern in SCHEMAS.items()
    for path in sorted((ROOT / RESULTS).glob(pattern))
    if path.name not in EARLIER
]


def no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON's")


@pytest.mark.parametrize(("schema", "name"), FILES)
def test_a_committed_measurement_is_of_its_schema(schema: str, name: str) -> None:
    value = json.loads((ROOT / RESULTS / name).read_text(), parse_constant=no_number)
    expected = json.loads((DOCS / f"{schema}.schema.json").read_text())
    found = jsonschema.Draft202012Validator(expected).iter_errors(value)
    assert [f"{each.json_path}: {each.message[:200]}" for each in found] == []


@pytest.mark.parametrize("name", EARLIER)
def test_what_was_measured_earlier_says_so_until_it_is_measured_again(name: str) -> None:
    assert json.loads((ROOT / RESULTS / name).read_text())["schema"] == EARLIER[name]


def test_every_schema_has_a_committed_measurement() -> None:
    written = {path.name.removesuffix(".schema.json") for path in DOCS.glob("*.schema.json")}
    assert written == {schema for schema, _ in FILES} == set(SCHEMAS)
