"""What a report lacks, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from latentrt.bundle.errors import LatentrtError

_Found = TypeVar("_Found")


class Notes:
    """Lines for a report; `interrupted` is whether Ctrl-C ended it early."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self.interrupted = False

    @property
    def lines(self) -> tuple[str, ...]:
        """In the order in which they were added, none twice."""
        return tuple(self._lines)

    def add(self, line: str) -> None:
        """Add a line."""
        self._lines[line] = None

    def part(self, name: str, measure: Callable[[], _Found], nothing: _Found) -> _Found:
        """Measure one part of a report; a failure becomes a note, and the part is `nothing`.

        Ctrl-C ends this part and skips every later one.
        """
        if self.interrupted:
            return nothing
        try:
            return measure()
        except KeyboardInterrupt:
            self.interrupted = True
            self.add(f"{name}: interrupted; later parts were skipped")
        except (LatentrtError, OSError, MemoryError) as error:
            self.add(f"{name}: {str(error) or type(error).__name__}")
        return nothing
