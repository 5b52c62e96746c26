"""The engines of one plan, opened one after the other, and how far that is."""

from __future__ import annotations

import time
from collections.abc import Mapping

from latentrt.engines.engine import Engine
from latentrt.engines.registry import Progress
from latentrt.runtime.rows import Model


class Opening:
    """Opens engines of models, and tells `progress` how far that is.

    `total` is how many there will be. None of `engines` is freed before they are released. Where
    they are not to be `held`, each may be freed at once, and is opened again at its first call.
    `seconds` is how long they took.
    """

    def __init__(self, progress: Progress | None, total: int, *, held: bool = True) -> None:
        self._progress = progress
        self._total = total
        self._held = held
        self._done = 0
        self.engines: list[Engine] = []
        self.seconds = 0.0

    def more(self, count: int) -> None:
        """Expect `count` engines more."""
        self._total += count

    def release(self) -> tuple[Engine, ...]:
        """The engines, which are held by the caller from now on."""
        engines, self.engines = tuple(self.engines), []
        return engines

    def __call__(self, model: Model, sizes: Mapping[str, int]) -> None:
        """Open one engine; raises what the model's `engine` raises."""
        begun = time.perf_counter()
        engine = self._opened(model, sizes)
        if self._held:
            self.engines.append(engine)
        self._done += 1
        self.seconds += time.perf_counter() - begun
        if self._progress is not None:
            self._progress("", self._done, self._total)

    def _opened(self, model: Model, sizes: Mapping[str, int]) -> Engine:
        progress, done = self._progress, self._done
        if progress is None:
            return model.engine(sizes)

        def tell(phase: str, step: int, steps: int) -> None:
            part = f" {step}/{steps}" if steps > 1 else ""
            which = f"{model.component} ({done + 1} of {self._total})"
            progress(f"{phase}{part}: {which}", done, self._total)

        return model.engine(sizes, tell)
