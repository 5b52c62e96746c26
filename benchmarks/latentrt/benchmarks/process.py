"""Code in a process of its own that answers in JSON: one line for its start, one for each request.

Cold starts, ceilings and the points of a sweep answer once and end. Peers go on, and draw an image
for each line that they are sent. What a process prints otherwise goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import IO, Any, Final, Self, TextIO, cast

from latentrt.bundle.errors import EngineError

LIMIT: Final = 3600.0
"""Seconds that one answer may take."""
_PATIENCE: Final = 20.0
"""Seconds that a process has to end in once its input has ended."""
_SAME: Final[Mapping[str, str]] = MappingProxyType({})


class Process:
    """A running command. Not thread-safe.

    `environment` replaces variables of this process. Every failure raises `EngineError` with the
    process's name and the last line of its standard error.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[object],
        *,
        environment: Mapping[str, str] = _SAME,
        limit: float = LIMIT,
    ) -> None:
        self.name = name
        self._limit = limit
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **environment},
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            self._errors.close()
            raise EngineError(f"{name}: {error}") from error
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(kill=kind is not None)

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line; gives the answer."""
        with contextlib.suppress(OSError):  # it ended: the missing answer says how
            print(line, file=cast("IO[str]", self._process.stdin), flush=True)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next JSON object; anything else than one is a failure."""
        try:
            line = self._lines.get(timeout=self._limit)
        except queue.Empty:
            self._process.kill()
            raise EngineError(f"{self.name}: no answer in {self._limit:g} s") from None
        if line is None:
            self._lines.put(None)
            raise EngineError(f"{self.name}: {self._ending()}")
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            raise EngineError(f"{self.name}: expected JSON, got {line.strip()!r}") from None

    def close(self, *, kill: bool = False) -> None:
        """End the process; it is killed where asked, or if it goes on without input."""
        with contextlib.suppress(OSError):
            cast("IO[str]", self._process.stdin).close()
        if kill:
            self._process.kill()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        cast("IO[str]", self._process.stdout).close()
        self._errors.close()

    def _read(self) -> None:
        for line in cast("IO[str]", self._process.stdout):
            self._lines.put(line)
        self._lines.put(None)

    def _ending(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        last = lines[-1] if lines else "no message"
        if status < 0:
            return f"ended by {signal.Signals(-status).name}: {last}"
        return f"exit status {status}: {last}"


def answer_of(
    name: str,
    module: str,
    job: Mapping[str, Any],
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] = _SAME,
    limit: float = LIMIT,
) -> dict[str, Any]:
    """Run a module on a job, which it reads from its input as JSON; gives its one answer.

    Raises `EngineError` where it gives none.
    """
    command = (python, "-m", module)
    with Process(name, command, environment=environment, limit=limit) as process:
        return process.ask(json.dumps(dict(job)))


def job() -> dict[str, Any]:
    """In the other process: what it was asked for, from the first line of standard input."""
    return json.loads(sys.stdin.readline())


def answers() -> TextIO:
    """In the other process: a stream for answers; standard output becomes standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def answer(stream: TextIO, value: Mapping[str, Any]) -> None:
    """In the other process: write one answer."""
    print(json.dumps(dict(value)), file=stream, flush=True)
