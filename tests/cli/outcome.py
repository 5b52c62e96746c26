"""What running a command gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    """The exit status, and what was written to either stream."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]
