"""The work of `latentrt serve`: open the service, and listen until a signal ends it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentrt.bundle.errors import FileError, InputError, Unavailable
from latentrt.engines.cache.cache import Build
from latentrt.runtime import Pipeline, Size
from latentrt.runtime.checks import one_of

try:
    from latentrt.serving.app import app_of
    from latentrt.serving.gates import Gate, read_keys
    from latentrt.serving.limits import Limits
    from latentrt.serving.opening import OTHER_SIZES, service_over
    from latentrt.serving.server import Server, log_to_stderr, switch_threads_often
    from latentrt.serving.shelf import Shelf
except ModuleNotFoundError as error:
    text = f"{error.name} is not installed; pip install 'latentrt[serve]'"
    raise Unavailable(text) from error


def run(
    models: Sequence[Path],
    limits: Limits,
    *,
    host: str,
    port: int,
    root_path: str,
    folders: tuple[Path | None, Path | None, Path | None],
    key_file: Path | None,
    origins: tuple[str, ...],
    sizes: Sequence[Size],
    other_sizes: str,
    max_batch: int,
    memory: int | None,
    log: str,
    pipeline: Mapping[str, Any],
) -> None:
    """Serve until SIGTERM or SIGINT. `folders` are those of LoRAs, embeddings and ControlNets.

    `pipeline` are arguments of `Pipeline.open`. Raises `InputError`, `FileError`.
    """
    if not 0 <= port <= 65535:
        raise InputError("port", "an integer from 0 to 65535", port)
    one_of("log", log, ("text", "json"))
    for path in models:
        if path.suffix == ".safetensors" and not path.is_file():
            raise FileError(path, "no such file")
    shelf = Shelf(tuple(models), *folders)

    def opened(path: Path, *, build: Build) -> Pipeline:
        return Pipeline.open(path, build=build, **pipeline)

    service = service_over(
        shelf,
        opened,
        limits=limits,
        sizes=sizes,
        other_sizes=one_of("other-sizes", other_sizes, OTHER_SIZES),
        max_batch=max_batch,
        memory=memory,
    )
    gate = Gate(_keys(key_file), origins, limits.body)

    def listening(at: int) -> None:
        place = f"[{host}]" if ":" in host else host
        print(f"latentrt: http://{place}:{at}{root_path}/", file=sys.stderr, flush=True)

    warm = service.warm

    def warmed() -> None:
        warm()
        print("latentrt: ready", file=sys.stderr, flush=True)

    service.warm = warmed
    log_to_stderr()
    switch_threads_often()
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
    server = Server(app_of(service, gate, log), service, host, port, listening, root_path)
    try:
        server.run()
    except OSError as error:
        raise InputError("port", "a free one", f"{port} ({error.strerror or error})") from error
    if service.failure:
        raise InputError("models", "a default model that draws", service.failure)


def _keys(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        keys = read_keys(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"cannot be read: {error}") from error
    if not keys:
        raise FileError(path, "holds no key; write one a line")
    return keys
