"""The models that are open: opened when first asked for, closed when memory is short."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from latentrt.runtime import Pipeline
from latentrt.serving.shelf import Shelf


@dataclass(slots=True)
class _Open:
    """A pipeline, the bytes of its weights, and how many use it."""

    pipeline: Pipeline
    size: int
    users: int = 0


class Models:
    """Pipelines by the names of a shelf. Thread-safe.

    `opened` gives a path's pipeline. The weights of those that are kept take at most `memory`
    bytes (None: any number), except for those in use. The one that was used last is closed last.
    """

    def __init__(
        self, shelf: Shelf, opened: Callable[[Path], Pipeline], memory: int | None = None
    ) -> None:
        self._shelf = shelf
        self._opened = opened
        self._memory = memory
        self._lock = threading.Lock()
        self._opening: Mapping[str, threading.Lock] = {
            name: threading.Lock() for name in shelf.model_names
        }
        self._open: dict[str, _Open] = {}  # the last used last

    @property
    def open_names(self) -> tuple[str, ...]:
        """The names of the models that are open, the last used last."""
        with self._lock:
            return tuple(self._open)

    def if_open(self, name: str) -> Pipeline | None:
        """A model's pipeline where it is open; it may be closed at any time."""
        with self._lock:
            entry = self._open.get(name)
            return None if entry is None else entry.pipeline

    @contextmanager
    def using(self, name: str) -> Generator[Pipeline]:
        """A model's pipeline, which is not closed within the block; raises what opening raises."""
        self._shelf.model(name)
        with self._opening[name]:
            entry = self._taken(name)
            if entry is None:
                pipeline = self._opened(self._shelf.model(name))
                weights = {
                    each.weights: each for each in pipeline.bundle.manifest.components.values()
                }
                size = sum(pipeline.bundle.path.joinpath(path).stat().st_size for path in weights)
                entry = _Open(pipeline, size, users=1)
                with self._lock:
                    self._open[name] = entry
        self._close_unused()
        try:
            yield entry.pipeline
        finally:
            with self._lock:
                entry.users -= 1
            self._close_unused()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            entries, self._open = list(self._open.values()), {}
        for each in entries:
            each.pipeline.close()

    def _taken(self, name: str) -> _Open | None:
        with self._lock:
            entry = self._open.pop(name, None)
            if entry is not None:
                entry.users += 1
                self._open[name] = entry
            return entry

    def _close_unused(self) -> None:
        """Close the models that memory has no room for, the longest unused first."""
        closed: list[_Open] = []
        with self._lock:
            for name, entry in list(self._open.items()):
                taken = sum(each.size for each in self._open.values())
                if self._memory is None or taken <= self._memory or len(self._open) == 1:
                    break
                if entry.users == 0:
                    closed.append(self._open.pop(name))
        for each in closed:
            each.pipeline.close()
