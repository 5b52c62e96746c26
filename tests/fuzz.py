"""Tests of inputs that nobody thought of: `make fuzz` tries ten times those of `make test`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

from latentrt.bundle.errors import InternalError, LatentrtError

_FACTOR: Final = int(os.environ.get("LATENTRT_FUZZ", "1"))
_SLOW: Final = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)


def fuzz(count: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a test of hypothesis that tries `count` inputs, or a multiple of it in `make fuzz`.

    A fixture of a function may be shared by inputs: no input here changes it for the next.
    """
    tried = settings(max_examples=count * _FACTOR, deadline=None, suppress_health_check=_SLOW)
    return lambda test: pytest.mark.fuzz(tried(test))


@contextlib.contextmanager
def errors_of_ours() -> Iterator[None]:
    """Let the block end by an error that latentrt raises on purpose, and by no other."""
    with contextlib.suppress(LatentrtError):
        try:
            yield
        except InternalError as error:
            raise AssertionError(f"an exception that latentrt did not expect: {error}") from error
