"""Requests made from the service's own OpenAPI document: none is answered with a 500."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from tests.serving.live import Live, listening, service

from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf

CASES = 200 * int(os.environ.get("LATENTRT_FUZZ", "1"))
"""Of all routes together."""


@pytest.fixture(scope="module")
def tiny(bundle: Callable[[str], Path]) -> Iterator[Live]:
    """A service of few steps and small pictures: what is asked for is drawn."""
    limits = Limits(steps=4, images=2, pixels=64 * 64, deadline=60, body=1 << 20, prompt=200)
    with listening(service(Shelf((bundle("heads"),)), limits)) as found:
        yield found


def test_every_route_is_in_the_document(tiny: Live) -> None:
    document = httpx.get(f"{tiny.url}/openapi.json").json()
    assert document["info"]["title"] == "latentrt"
    paths = {"/v1/jobs", "/v1/jobs/{id}/events", "/v1/images/generations", "/health/live"}
    assert paths <= document["paths"].keys()


@pytest.mark.fuzz
def test_no_request_of_the_document_is_a_server_error(tiny: Live) -> None:
    schema = schemathesis.openapi.from_url(f"{tiny.url}/openapi.json")
    operations: list[Any] = [each.ok() for each in schema.get_all_operations()]  # pyright: ignore[reportAttributeAccessIssue]
    each_has = max(CASES // len(operations), 4)
    for operation in operations:
        strategy = operation.as_strategy()

        @settings(
            max_examples=each_has,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
        )
        @given(case=strategy)
        def ask(case: Any) -> None:
            case.call_and_validate(checks=[not_a_server_error], timeout=30)

        ask()
    assert httpx.get(f"{tiny.url}/health/live").status_code == 200
