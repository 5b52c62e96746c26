"""What a long measurement says of itself while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable

Say = Callable[[str], None]


def say(line: str) -> None:
    """A line at once, to standard error: standard output is for what was found."""
    print(line, file=sys.stderr, flush=True)
