"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import ControlType, Segment
from rich.text import Text


class _PartColumn(ProgressColumn):
    """The part at work, with its own seconds once it takes long: a compile tells nothing itself."""

    def render(self, task: Task) -> Text:
        note = str(task.fields["note"])
        seconds = task.get_time() - float(task.fields["since"])
        return Text(f"{note}, {seconds:.0f} s" if note and seconds >= Bars.LONG else note)


class _Escape:
    """An escape sequence that is written as it is, and takes no room."""

    def __init__(self, sequence: str) -> None:
        self._sequence = sequence

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self._sequence, None, [(ControlType.BELL,)])  # any control: none is written


class Bars:
    """One bar a stage on a terminal; elsewhere lines when a stage begins, proceeds and ends.

    Everything goes to standard error, so that standard output has only the result.
    """

    INTERVAL = 5.0
    """Seconds between two lines of one stage where there is no terminal."""
    LONG = 2.0
    """Seconds after which a terminal shows how long a part has taken."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._tasks: dict[str, int] = {}
        self._notes: dict[str, str] = {}
        self._said: dict[str, float] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._room = 0
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            _PartColumn(),
            console=console,
        )

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
        """Show the progress of a stage."""
        if self._quiet:
            return
        if self._console.is_terminal:
            now = self._bars.get_time()
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, note="", since=now)
            if self._notes.get(stage) != note:
                self._notes[stage] = note
                self._bars.update(self._tasks[stage], since=now)  # pyright: ignore[reportArgumentType]
            self._bars.update(self._tasks[stage], completed=done, total=total, note=note)  # pyright: ignore[reportArgumentType]
        else:
            self._line(stage, done, total, note)

    @property
    def terminal(self) -> bool:
        """Whether there are bars, on a terminal."""
        return self._console.is_terminal and not self._quiet and not self._console.is_dumb_terminal

    @property
    def height(self) -> int:
        """Rows of the terminal."""
        return self._console.height

    @property
    def descriptor(self) -> int | None:
        """The terminal's file, None for a stream that has none."""
        try:
            return self._console.file.fileno()
        except OSError:
            return None

    def show(self, sequence: str, rows: int) -> None:
        """Write an escape sequence that draws a picture into the `rows` above the bars.

        The first call makes room for it.
        """
        if self._room < rows:
            self._console.print("\n" * (rows - self._room - 1))
            self._room = rows
        # The console goes to the first line of the bars before it prints, and draws them after.
        self._console.print(_Escape(f"\x1b7\x1b[{rows}A\r{sequence}\x1b8"), end="")

    def of(self, stage: str) -> Callable[[str, int, int], None]:
        """A callback for a stage whose parts take long: the part, parts done, all parts.

        Without a terminal, a part that is made gets a line, and one that is only loaded gets none.
        """

        def tell(part: str, done: int, total: int) -> None:
            if part and not part.startswith("loading"):
                self._said.pop(stage, None)
            self(stage, done, total, part if done < total else "")

        return tell

    def _line(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        begun, first = self._begun.setdefault(stage, (now, done))
        finished = done == total
        if not finished and now - self._said.get(stage, -math.inf) < self.INTERVAL:
            return
        self._said[stage] = now
        spent, passed = now - begun, done - first
        times = ""
        if finished:
            times = f"  {spent:.1f} s"
        elif passed:
            times = f"  {spent * (total - done) / passed:.0f} s left"
        print(
            f"{stage:<9} {100 * done // max(total, 1):3d} %{times}  {note}".rstrip(),
            file=self._console.file,
            flush=True,
        )
