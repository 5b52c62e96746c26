"""A service that listens in this process, for tests with real clients.

    python -m tests.serving.live '{"drawing": 4}' MODEL...

serves in a process of its own with these limits, until SIGTERM.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from latentrt.engines.cache.cache import Build
from latentrt.runtime import Pipeline
from latentrt.serving.app import app_of
from latentrt.serving.gates import Gate
from latentrt.serving.limits import Limits
from latentrt.serving.opening import service_over
from latentrt.serving.server import Server, switch_threads_often
from latentrt.serving.service import Service
from latentrt.serving.shelf import Shelf


@dataclass(frozen=True)
class Live:
    """Where it listens, and its parts."""

    url: str
    service: Service
    server: Server


def opened(path: Path, *, build: Build = "missing") -> Pipeline:
    """A pipeline on ONNX Runtime, whose engines are not verified: other tests do that."""
    return Pipeline.open(path, build=build, engine="onnxruntime", verify="off")


def service(shelf: Shelf, limits: Limits | None = None, **options: object) -> Service:
    """A service with one batch size: a picture is the same, whatever shares its calls."""
    return service_over(shelf, opened, limits=limits, batch_sizes=(4,), **options)  # pyright: ignore[reportArgumentType]


@contextmanager
def listening(service: Service, gate: Gate | None = None, *, ready: bool = True) -> Iterator[Live]:
    """Serve in a thread, on a free port, until the block ends."""
    ports: list[int] = []
    app = app_of(service, gate or Gate(body=service.limits.body))
    server = Server(app, service, "127.0.0.1", 0, ports.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _wait(lambda: bool(ports) or not thread.is_alive())
        url = f"http://127.0.0.1:{ports[0]}"
        if ready:
            _wait(lambda: httpx.get(f"{url}/health/startup").status_code == 200)
        yield Live(url, service, server)
    finally:
        server.should_exit = True
        thread.join()


def _wait(done: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "the service did not start"
        time.sleep(0.02)


def main() -> None:
    """Serve the models of the command line."""
    limits, *models = sys.argv[1:]
    serving = service(Shelf(tuple(map(Path, models))), Limits(**json.loads(limits)))
    app = app_of(serving, Gate(body=serving.limits.body))

    def told(port: int) -> None:
        print(f"http://127.0.0.1:{port}", file=sys.stderr, flush=True)

    switch_threads_often()
    Server(app, serving, "127.0.0.1", 0, told).run()


if __name__ == "__main__":
    main()
