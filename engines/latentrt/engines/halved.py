"""An engine whose rows are evaluated in two halves at the same time.

The threads of one evaluation wait for each other at every node. Two evaluations, with half the rows
and half the threads each, wait for each other once. docs/design.md has the times on two cores. SD
1.5's U-Net takes 1.3 % more memory. It was not measured with more cores.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import Closed
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays, Blueprint, Engine, check_inputs
from latentrt.engines.process import Home


def half_of(blueprint: Blueprint) -> Blueprint | None:
    """The blueprint of half the rows; None where they are odd, or where an array has none.

    Rows are the first dimension of every array that goes in or comes out.
    """
    rows = blueprint.sizes.get("batch", 1)
    arrays = (*blueprint.inputs, *blueprint.outputs)
    if rows % 2 or any(spec.dims[:1] != ("batch",) for spec in arrays):
        return None
    return replace(blueprint, sizes={**blueprint.sizes, "batch": rows // 2})


class HalvedEngine:
    """An engine over one of half the rows, which takes two calls at once."""

    def __init__(self, blueprint: Blueprint, half: Engine) -> None:
        self._home = Home("engine")
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        self.half = half
        # Its threads start when they are needed, and end when this is no longer referenced.
        self._beside = ThreadPoolExecutor(thread_name_prefix="latentrt-half")
        self._lock = threading.Lock()
        self._calls = 0
        self._closed = False

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises what the engine of half the rows raises, when both halves have ended."""
        self._home.check()
        check_inputs(self.component, self.inputs, inputs)
        with self._lock:
            if self._closed:
                raise Closed(f"{self.component}: the engine is closed")
            self._calls += 1
        try:
            return self._evaluated(inputs)
        finally:
            with self._lock:
                self._calls -= 1
            self._free()

    def close(self) -> None:
        """Free the engine of half the rows, after the calls that are being evaluated."""
        if self._home.here:
            with self._lock:
                self._closed = True
            self._free()

    def _free(self) -> None:
        with self._lock:
            unused = self._closed and not self._calls
        if unused:
            self.half.close()

    def _evaluated(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        rows = len(next(iter(inputs.values()))) // 2
        first = {name: array[:rows] for name, array in inputs.items()}
        second = {name: array[rows:] for name, array in inputs.items()}
        try:
            behind = self._beside.submit(self.half, second)
        except RuntimeError:  # no thread is begun once the main one has ended
            return _joined(self.half(first), self.half(second))
        try:
            ahead = self.half(first)
        finally:
            wait([behind])
        return _joined(ahead, behind.result())


def _joined(
    ahead: dict[str, NDArray[Any]], behind: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate((array, behind[name])) for name, array in ahead.items()}
