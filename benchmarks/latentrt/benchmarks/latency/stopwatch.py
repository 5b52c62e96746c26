"""Where the time of a picture goes: its stages, and what is spent outside engine calls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays, Engine
from latentrt.runtime import Pipeline, Request, Result


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of one picture.

    `text` is the encoding of its prompts, `steps` each step with everything that belongs to it,
    `decode` the latents made a picture, `own` what of `total` was not inside an engine, `calls`
    the engine calls of each component.
    """

    total: float
    text: float
    steps: tuple[float, ...]
    decode: float
    own: float
    calls: Mapping[str, tuple[float, ...]]


class _Watched:
    """An engine whose calls are timed."""

    def __init__(self, engine: Engine, watch: Stopwatch) -> None:
        self._engine = engine
        self._watch = watch

    @property
    def component(self) -> str:
        return self._engine.component

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.outputs

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        begun = time.perf_counter()
        try:
            return self._engine(inputs)
        finally:
            self._watch.heard(self.component, time.perf_counter() - begun)

    def close(self) -> None:
        self._engine.close()


class Stopwatch(Pipeline):
    """A pipeline that times its engines' calls; for one thread. Made as a `Pipeline` is."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As `Pipeline` has them."""
        super().__init__(*arguments, **options)
        self._calls: dict[str, list[float]] = {}
        self._sizes: dict[str, Mapping[str, int]] = {}

    def engine(self, component: str, sizes: Mapping[str, int]) -> Engine:
        """The component's engine for these sizes, watched."""
        self._sizes[component] = dict(sizes)
        return _Watched(super().engine(component, sizes), self)

    @property
    def sizes(self) -> dict[str, Mapping[str, int]]:
        """The sizes that each component was last asked for."""
        return dict(self._sizes)

    def heard(self, component: str, seconds: float) -> None:
        """An engine call has ended."""
        self._calls.setdefault(component, []).append(seconds)

    def picture(self, request: Request) -> tuple[Stages, Result]:
        """A request of one picture, timed."""
        self._calls = {}
        begun = time.perf_counter()
        run = self.run(request)
        steps: list[float] = []
        last = time.perf_counter()
        for _ in run:
            now = time.perf_counter()
            steps.append(now - last)
            last = now
        result = run.result()
        end = time.perf_counter()
        stages = Stages(
            total=end - begun,
            text=result.seconds.text,
            steps=tuple(steps),
            decode=end - last,
            own=end - begun - sum(map(sum, self._calls.values())),
            calls={name: tuple(seconds) for name, seconds in self._calls.items()},
        )
        return stages, result
