"""What is missing in a report, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from latentrt.bundle.errors import LatentrtError

_Found = TypeVar("_Found")


class Notes:
    """Lines for a report. `interrupted` is whether somebody wanted no more of it."""

    def __init__(self, lines: Iterable[str] = (), *, interrupted: bool = False) -> None:
        self._lines = dict.fromkeys(lines)
        self.interrupted = interrupted

    @property
    def lines(self) -> tuple[str, ...]:
        """In the order in which they were added, none twice."""
        return tuple(self._lines)

    def add(self, line: str) -> None:
        """Add a line."""
        self._lines[line] = None

    def interrupt(self, what: str) -> None:
        """Note what was interrupted."""
        self.interrupted = True
        self.add(f"{what}: interrupted; what comes after it was not measured either")

    def part(self, what: str, measured: Callable[[], _Found], nothing: _Found) -> _Found:
        """What `measured` gives; where that goes wrong, a note, and `nothing`.

        What was measured before is worth more than an error of the library, of the system or of
        memory. An interrupt ends this part and every later one.
        """
        if self.interrupted:
            return nothing
        try:
            return measured()
        except KeyboardInterrupt:
            self.interrupt(what)
        except (LatentrtError, OSError, MemoryError) as error:
            self.add(f"{what}: {str(error) or type(error).__name__}")
        return nothing
