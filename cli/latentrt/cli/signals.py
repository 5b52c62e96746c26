"""Ctrl-C, SIGTERM and SIGHUP end a command once, so that no half-written file is left.

This module imports little, so that `main` can catch an interrupt early.
"""

from __future__ import annotations

import signal
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any, Self

INTERRUPTED = 130

_PATIENCE = 2.0
"""Seconds in which another signal counts as the same one: the command removes its files."""


class Signals:
    """Within the block each of these signals raises KeyboardInterrupt in the main thread.

    After the block the process ignores SIGINT, because it is about to end.

    `number` is the last signal that came, None before the first. A signal that the parent process
    ignores, as `nohup` does, stays ignored.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._came = 0.0
        self._before: dict[Any, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # which no signal reaches
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if signal.SIGINT in self._before:
            # From here on an interrupt could only print a traceback.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def outcome(self) -> tuple[str, int]:
        """The message after an interrupt, and the exit status."""
        if self.number is None or self.number == signal.SIGINT:
            return "interrupted", INTERRUPTED
        return f"ended by {signal.Signals(self.number).name}", 128 + self.number

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is not None and now - self._came < _PATIENCE:
            return
        self.number, self._came = number, now
        raise KeyboardInterrupt
