"""What an engine is, and what one is made from.

An engine maps named arrays to named arrays at fixed shapes and knows nothing of diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, InputError
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


_OWN: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_HALVES: Final = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What to compile: a graph at a precision, the weights it reads, and a size for each symbol.

    A graph names its weights by a path such as `weights/unet.safetensors`. That path must be the
    end of `weights`; it is looked up from the second parent of `weights`. `others` are further
    files that it reads, by the paths that it names. `dtype` is what the graph as it is stored
    computes in; `inputs` and `outputs` are its arrays. `precision` is what the engine computes in;
    `graph_fp32` is what is compiled where that is fp32 and the graph's dtype 16-bit. `digests` are
    the SHA-256 of the graph, of the weights and of the others in hexadecimal; only what is cached
    needs them.
    """

    component: str
    graph: Path
    weights: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: Mapping[str, int]
    dtype: str = "float32"
    digests: tuple[str, ...] | None = None
    precision: str = "fp32"
    graph_fp32: Path | None = None
    others: Mapping[str, Path] = field(default_factory=dict[str, Path])

    @staticmethod
    def of(
        bundle: Bundle, component: str, sizes: Mapping[str, int], precision: str = "fp32"
    ) -> Blueprint:
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
            digests=tuple(files[f].sha256 for f in (record.graph, record.weights, *record.others)),
            precision=precision,
            graph_fp32=bundle.graph_fp32(component),
            others=bundle.other_weights(component),
        )

    def at(self, precision: str) -> Blueprint:
        """The same at another precision."""
        return self if precision == self.precision else replace(self, precision=precision)

    @property
    def widened(self) -> bool:
        """Whether a 16-bit graph is computed in float32: in all but its own precision."""
        return self.dtype in _HALVES and self.dtype != _OWN[self.precision]

    @property
    def source(self) -> Path:
        """The graph to compile; raises `BundleError` where there is none in fp32."""
        if not self.widened:
            return self.graph
        if self.graph_fp32 is None:
            raise BundleError(
                self.graph, "has no fp32 graph beside it: export the checkpoint again"
            )
        return self.graph_fp32

    @property
    def files(self) -> dict[str, Path]:
        """Every file of weights, by the path that the graph names."""
        return {self.weights.relative_to(self.root).as_posix(): self.weights, **self.others}

    @property
    def root(self) -> Path:
        """The folder that the graph's path to its weights starts from."""
        return self.weights.parents[:2][-1]

    @property
    def fixed_inputs(self) -> tuple[TensorSpec, ...]:
        """What the engine takes: every dimension a number, the dtypes those of its precision."""
        return tuple(self._fixed(s) for s in self.inputs)

    @property
    def fixed_outputs(self) -> tuple[TensorSpec, ...]:
        """What the engine gives, likewise."""
        return tuple(self._fixed(s) for s in self.outputs)

    def _fixed(self, spec: TensorSpec) -> TensorSpec:
        fixed = spec.fixed(self.sizes)
        narrow = self.widened and fixed.dtype in _HALVES
        return replace(fixed, dtype="float32") if narrow else fixed


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
