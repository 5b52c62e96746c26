"""Services in a process of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

_CODE = "import sys; from latentrt.cli.main import main; sys.exit(main())"


@dataclass
class Process:
    """The process, where it listens, and what it has written so far."""

    popen: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list[str])

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.popen.pid, number)

    def end(self, seconds: float = 60) -> int:
        """Wait for its end; gives its exit status."""
        return self.popen.wait(seconds)


def serving(
    *models: Path, options: tuple[str, ...] = (), ready: bool = True
) -> AbstractContextManager[Process]:
    """`latentrt serve` with these models, on a free port and ONNX Runtime, until the block ends."""
    asked = ("--port", "0", "--engine", "onnxruntime", "--verify", "off", "--max-batch", "4")
    command = ("-c", _CODE, "serve", *map(str, models), *asked, *options)
    return _running(command, ready=ready)


def one_size(*models: Path, **limits: int) -> AbstractContextManager[Process]:
    """A service with one batch size and these limits, until the block ends.

    A picture is the same, whatever shares its calls: see `tests.serving.live`.
    """
    command = ("-m", "tests.serving.live", json.dumps(limits), *map(str, models))
    return _running(command, ready=True)


@contextmanager
def _running(command: tuple[str, ...], *, ready: bool) -> Iterator[Process]:
    popen = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    assert popen.stderr is not None
    found = Process(popen, "")
    try:
        for line in popen.stderr:
            found.lines.append(line)
            if match := re.search(r"http://[^/ ]+", line):
                found.url = match[0].strip()
                break
        assert found.url, "".join(found.lines)
        thread = threading.Thread(target=lambda: found.lines.extend(popen.stderr or ()))
        thread.start()
        until = time.monotonic() + 120
        while ready and httpx.get(f"{found.url}/health/startup").status_code != 200:
            assert time.monotonic() < until, "".join(found.lines)
            time.sleep(0.05)
        yield found
    finally:
        if popen.poll() is None:
            popen.send_signal(signal.SIGKILL)
        popen.wait()
        popen.stderr.close()
