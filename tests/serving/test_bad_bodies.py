"""Bad requests get the right status, and an answer that names the field."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.serving.bad_bodies import BODIES, Bad
from tests.serving.live import Live


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=20) as found:
        yield found


@pytest.mark.parametrize("bad", BODIES, ids=lambda bad: bad.name)
def test_a_bad_request_is_answered_by_its_field(client: httpx.Client, bad: Bad) -> None:
    assert bad.send(client) == ""
