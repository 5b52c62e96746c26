"""Where the time of an image goes: its stages, its engine calls, and the runtime outside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays, Engine
from latentrt.runtime import Pipeline, Request, Result


@dataclass(frozen=True, slots=True)
class ImageTimes:
    """Seconds of one image.

    `text` encodes the prompts, `steps` is each sampler step, `decode` makes pixels of latents;
    `calls` are the engine calls of each component, `runtime` the part of `total` outside them.
    """

    total: float
    text: float
    steps: tuple[float, ...]
    decode: float
    runtime: float
    calls: Mapping[str, tuple[float, ...]]


class _TimedEngine:
    """An engine that reports the seconds of each call."""

    def __init__(self, engine: Engine, report: Callable[[str, float], None]) -> None:
        self._engine = engine
        self._report = report

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
            self._report(self.component, time.perf_counter() - begun)

    def close(self) -> None:
        self._engine.close()


class TimedPipeline(Pipeline):
    """A pipeline that times its engines' calls. Open it as a `Pipeline`; use it in one thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._calls: dict[str, list[float]] = {}
        self._sizes: dict[str, Mapping[str, int]] = {}

    def engine(
        self, component: str, sizes: Mapping[str, int], *rest: Any, **options: Any
    ) -> Engine:
        """The component's engine for these sizes, timed."""
        self._sizes[component] = dict(sizes)
        return _TimedEngine(super().engine(component, sizes, *rest, **options), self._called)

    @property
    def sizes(self) -> dict[str, Mapping[str, int]]:
        """The sizes that each component was last opened for."""
        return dict(self._sizes)

    def image(self, request: Request) -> tuple[ImageTimes, Result]:
        """Draw a request of one image, timed, as if its prompt had not been drawn before."""
        self._calls = {}
        self.forget_prompts()
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
        times = ImageTimes(
            total=end - begun,
            text=result.seconds.text,
            steps=tuple(steps),
            decode=end - last,
            runtime=end - begun - sum(map(sum, self._calls.values())),
            calls={name: tuple(seconds) for name, seconds in self._calls.items()},
        )
        return times, result

    def _called(self, component: str, seconds: float) -> None:
        self._calls.setdefault(component, []).append(seconds)
