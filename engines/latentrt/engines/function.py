"""An engine made of a Python function: for tests, and for anything that is not a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays, check_inputs


@dataclass(frozen=True, slots=True, weakref_slot=True)
class FunctionEngine:
    """Calls `function` with the checked inputs; it returns the named outputs."""

    component: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    function: Callable[[Arrays], dict[str, NDArray[Any]]]

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Check the inputs and call the function."""
        check_inputs(self.component, self.inputs, inputs)
        return self.function(inputs)

    def close(self) -> None:
        """Nothing is held."""
