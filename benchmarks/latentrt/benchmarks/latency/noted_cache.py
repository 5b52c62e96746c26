"""A cache of engines that remembers what it had."""

from __future__ import annotations

from typing import Any

from latentrt.engines.cache.cache import Cache, Opened


class NotedCache(Cache):
    """The user's cache; `hits` says of every engine that was opened whether it was there."""

    def __init__(self) -> None:
        super().__init__()
        self.hits: list[bool] = []

    def open(self, *arguments: Any, **options: Any) -> Opened:
        """As `Cache.open` has it."""
        opened = super().open(*arguments, **options)
        self.hits.append(opened.hit)
        return opened
