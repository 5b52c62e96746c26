"""The engines of one plan, opened one after the other, and how far that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from latentrt.engines.engine import Engine
from latentrt.engines.registry import Progress


class Opening:
    """Opens engines by `engine`, a pipeline's method, and tells `progress` how far that is.

    `total` is how many there will be. None of `engines` is freed for as long as this is there.
    """

    def __init__(
        self, engine: Callable[..., Engine], progress: Progress | None, total: int
    ) -> None:
        self._engine = engine
        self._progress = progress
        self._total = total
        self.engines: list[Engine] = []

    def more(self, count: int) -> None:
        """There are so many more than was known."""
        self._total += count

    def __call__(self, component: str, sizes: Mapping[str, int]) -> Engine:
        """One engine; raises what the pipeline's method raises."""
        progress, done = self._progress, len(self.engines)
        if progress is None:
            engine = self._engine(component, sizes)
            self.engines.append(engine)
            return engine

        def tell(phase: str, step: int, steps: int) -> None:
            part = f" {step}/{steps}" if steps > 1 else ""
            which = f"{component} ({done + 1} of {self._total})"
            progress(f"{phase}{part}: {which}", done, self._total)

        engine = self._engine(component, sizes, tell)
        self.engines.append(engine)
        progress("", done + 1, self._total)
        return engine
