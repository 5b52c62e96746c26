"""What an engine is, and what one is made from.

An engine maps named arrays to named arrays at fixed shapes and knows nothing of diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.checks import flag, integer, shown
from latentrt.bundle.errors import InputError
from latentrt.bundle.spec import TensorSpec

Arrays = Mapping[str, NDArray[Any]]

_dtype: Final = cache(np.dtype[Any])


@runtime_checkable
class Engine(Protocol):
    """A compiled component. Calls are thread-safe; the arrays returned belong to the caller."""

    @property
    def component(self) -> str:
        """Which component this is, for messages."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The arrays a call takes, every dimension a number."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The arrays a call gives."""
        ...

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot be called afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What to compile: a graph, the weights it reads, and a size for each symbol.

    A graph names its weights by a path such as `weights/unet.safetensors`; that path must be the
    end of `weights`, whose second parent is where it is looked up. `dtype` is what the graph
    computes in. `digests` are the SHA-256 of the graph and of the weights in hexadecimal; only what
    is cached needs them.
    """

    component: str
    graph: Path
    weights: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: Mapping[str, int]
    dtype: str = "float32"
    digests: tuple[str, str] | None = None

    @staticmethod
    def of(bundle: Bundle, component: str, sizes: Mapping[str, int]) -> Blueprint:
        """A component of a bundle, its digests from the manifest."""
        record = bundle.manifest.components[component]
        files = bundle.manifest.files
        return Blueprint(
            component=component,
            graph=bundle.graph(component),
            weights=bundle.weights(component),
            inputs=record.inputs,
            outputs=record.outputs,
            sizes=dict(sizes),
            dtype=bundle.manifest.dtype,
            digests=(files[record.graph].sha256, files[record.weights].sha256),
        )

    @property
    def root(self) -> Path:
        """The folder that the graph's path to its weights starts from."""
        return self.weights.parents[:2][-1]

    @property
    def fixed_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs with every dimension a number."""
        return tuple(s.fixed(self.sizes) for s in self.inputs)

    @property
    def fixed_outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs with every dimension a number."""
        return tuple(s.fixed(self.sizes) for s in self.outputs)


@dataclass(frozen=True, slots=True)
class Options:
    """How an engine computes and uses the machine; a backend heeds those that it lists.

    `precision` is what it computes in ("fp32", "fp16", "bf16"), whatever the weights are stored
    as; `threads` is the number of CPU threads of one call (None: the backend's choice);
    `streams` is how many calls a CPU works on at once, each with `threads` of its own, or, where
    that is None, with its share of the backend's choice (None: one, whose rows OpenVINO takes in
    two halves at once where that is faster); `arena` keeps freed memory for
    the next call, which is faster and holds the peak; `target` is the compute capability to build
    for, such as "sm89" (None: this machine's GPU); `level`, 0 to 5, is how hard a builder looks for
    faster kernels; `stripped` stores no weights in the plan and puts the bundle's in when it is
    loaded.
    """

    precision: str = "fp32"
    threads: int | None = None
    streams: int | None = None
    arena: bool = True
    target: str | None = None
    level: int = 3
    stripped: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("precision", "target"):
            value: object = getattr(self, name)
            if not isinstance(value, str) and (name, value) != ("target", None):
                raise InputError(name, "a name", shown(value))
        for name in ("threads", "streams"):
            value = getattr(self, name)
            if value is not None:
                put(self, name, integer(name, "an integer from 1 to 4096", value, 1, 4096))
        put(self, "level", integer("level", "an integer from 0 to 5", self.level, 0, 5))
        for name in ("arena", "stripped"):
            put(self, name, flag(name, getattr(self, name)))


def check_inputs(component: str, specs: tuple[TensorSpec, ...], inputs: Arrays) -> None:
    """Raise `InputError` naming the first array that is missing, unknown or of another kind."""
    for spec in specs:
        if not _fits(spec, inputs.get(spec.name)):
            break
    else:
        if len(inputs) == len(specs):
            return
    _refuse(component, specs, inputs)


def _fits(spec: TensorSpec, array: NDArray[Any] | None) -> bool:
    return array is not None and array.shape == spec.dims and array.dtype == _dtype(spec.dtype)


def _refuse(component: str, specs: tuple[TensorSpec, ...], inputs: Arrays) -> NoReturn:
    names = [s.name for s in specs]
    unknown = sorted(set(inputs) - set(names))
    if unknown:
        raise InputError(f"{component} input {unknown[0]!r}", f"one of {', '.join(names)}", "it")
    spec = next(s for s in specs if not _fits(s, inputs.get(s.name)))
    array = inputs.get(spec.name)
    got = "nothing"
    if array is not None:
        got = f"({', '.join(str(n) for n in array.shape)}) {array.dtype}"
    raise InputError(f"{component} input {spec.name!r}", str(spec), got)
