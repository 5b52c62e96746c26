"""What tests of the service share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.serving.live import Live, listening, service

from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf


@pytest.fixture(scope="module")
def live(bundle: Callable[[str], Path]) -> Iterator[Live]:
    """A service over two tiny models, "heads" and "lists", which draws at most 8 pictures."""
    shelf = Shelf((bundle("heads"), bundle("lists")))
    with listening(service(shelf, Limits(steps=40, images=4))) as found:
        yield found
