"""A contestant in a process of its own, which draws when it is told.

The process answers one line of JSON when it has drawn its first picture ({"versions", "settings",
"first", "rss_peak"}), and one for each line that it is sent: `go` draws a picture
({"seconds", "stages", "rss_peak"}), `save PATH` writes the last one as .npy ({"saved"}). At the end
of its input it ends. `benchmarks/peers/serving.py` and `latentrt.benchmarks.peers.contestant` speak
it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.child import ending
from latentrt.bundle.errors import EngineError

_PATIENCE: Final = 20.0
"""Seconds that a process has to end in when its input has."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who takes part: `command` is followed by the path of `spec` and `--serve`."""

    name: str
    precision: str
    command: tuple[str, ...]
    spec: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def write_spec(self, path: Path) -> None:
        """Write what its process is told."""
        path.write_text(json.dumps(dict(self.spec)), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Ready:
    """What a contestant says when its first picture is drawn.

    Seconds: `start` from the making of the process to that picture, `first` of it the picture
    itself, before which its library and its model were loaded; `rss_peak` is in bytes, None where
    it is not known.
    """

    versions: Mapping[str, str]
    settings: Mapping[str, str]
    start: float
    first: float
    rss_peak: int | None


@dataclass(frozen=True, slots=True)
class Lap:
    """One picture: its seconds, those of each component where known, and the peak so far."""

    seconds: float
    stages: Mapping[str, float]
    rss_peak: int | None


class PeerProcess:
    """A contestant's process, from its start to its end. Not thread-safe.

    `limit` is the seconds that any one answer may take. Whatever goes wrong is an `EngineError`
    with the contestant's name and the last line that it printed as an error.
    """

    def __init__(self, contestant: Contestant, scratch: Path, *, limit: float = 3600.0) -> None:
        self.contestant = contestant
        self._scratch = scratch
        self._limit = limit
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors = scratch / f"{contestant.name}.log"
        spec = scratch / f"{contestant.name}.json"
        contestant.write_spec(spec)
        self._begun = time.perf_counter()
        with open(self._errors, "w", encoding="utf-8") as errors:
            try:
                self._process = subprocess.Popen(
                    [*contestant.command, str(spec), "--serve"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=dict(contestant.environment) or None,
                    encoding="utf-8",
                    errors="replace",
                )
            except OSError as error:
                raise EngineError(f"{contestant.name}: {error}") from error
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
        self.close()

    def ready(self) -> Ready:
        """Wait for the first picture."""
        found = self._answer("versions", "settings", "first", "rss_peak")
        return Ready(start=time.perf_counter() - self._begun, **found)

    def go(self) -> Lap:
        """One picture."""
        self._send("go")
        return Lap(**self._answer("seconds", "stages", "rss_peak"))

    def save(self) -> NDArray[np.float32]:
        """The last picture, float32 [1, 3, height, width] in [-1, 1]."""
        path = self._scratch / f"{self.contestant.name}.npy"
        self._send(f"save {path}")
        self._answer("saved")
        try:
            return np.load(path)
        except (OSError, ValueError) as error:
            raise EngineError(f"{self.contestant.name}: no picture in {path}: {error}") from error

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        with contextlib.suppress(OSError):
            cast("IO[str]", self._process.stdin).close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        cast("IO[str]", self._process.stdout).close()

    def _read(self) -> None:
        for line in cast("IO[str]", self._process.stdout):
            self._lines.put(line)
        self._lines.put(None)

    def _send(self, line: str) -> None:
        stdin = cast("IO[str]", self._process.stdin)
        with contextlib.suppress(OSError):  # it ended: the answer that does not come says how
            print(line, file=stdin, flush=True)

    def _answer(self, *names: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._limit)
        except queue.Empty:
            self._process.kill()
            raise self._failed(f"no answer in {self._limit:g} s") from None
        if line is None:
            self._lines.put(None)
            raise self._failed(
                ending(self._process.wait(), self._errors.read_text("utf-8", "replace"))
            )
        try:
            value = json.loads(line)
            return {name: value[name] for name in names}
        except (ValueError, KeyError, TypeError):
            raise self._failed(f"expected {', '.join(names)}, got {line.strip()!r}") from None

    def _failed(self, problem: str) -> EngineError:
        return EngineError(f"{self.contestant.name}: {problem}")
