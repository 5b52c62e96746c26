"""How far long work is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Bars:
    """One bar a stage on a terminal; elsewhere a line when a stage begins, moves on, and ends.

    Everything goes to standard error, so that standard output is the result alone.
    """

    INTERVAL = 5.0
    """Seconds between two lines of one stage where there is no terminal."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._tasks: dict[str, int] = {}
        self._said: dict[str, float] = {}
        self._begun: dict[str, float] = {}
        columns = (TextColumn("{task.description:<9}"), BarColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=console)

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal and not self._quiet:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Tell how far a stage is."""
        if self._quiet:
            return
        if self._console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, note="")
            self._bars.update(self._tasks[stage], completed=done, total=total, note=note)  # pyright: ignore[reportArgumentType]
        else:
            self._line(stage, done, total, note)

    def _line(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        begun = self._begun.setdefault(stage, now)
        finished = done == total
        if not finished and now - self._said.get(stage, 0.0) < self.INTERVAL:
            return
        self._said[stage] = now
        took = f"  {now - begun:.1f} s" if finished else ""
        print(
            f"{stage:<9} {100 * done // max(total, 1):3d} %{took}  {note}".rstrip(),
            file=self._console.file,
            flush=True,
        )
