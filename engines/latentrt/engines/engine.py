"""What an engine is, and how one is had by name.

An engine maps named arrays to named arrays at fixed shapes and knows nothing of diffusion. A
backend compiles engines; each is one module of this package, imported only when it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, Unavailable
from latentrt.bundle.spec import TensorSpec

Arrays = Mapping[str, NDArray[Any]]


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
    end of `weights`, whose second parent is where it is looked up. `digests` are the SHA-256 of the
    graph and of the weights in hexadecimal; only what is cached needs them.
    """

    component: str
    graph: Path
    weights: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: Mapping[str, int]
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
            digests=(files[record.graph].sha256, files[record.weights].sha256),
        )

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
    """How an engine computes and uses the machine.

    `precision` is what it computes in ("fp32", "bf16"), whatever the weights are stored as;
    `threads` is the number of CPU threads of one call (None: the backend's choice); `arena` keeps
    freed memory for the next call, which is faster and holds the peak.
    """

    precision: str = "fp32"
    threads: int | None = None
    arena: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InputError("threads", "at least 1", self.threads)


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a backend can be used here.

    `version` is None where it is not installed; `devices` those that it found; `problem` and
    `remedy` say what is missing and the command that would help; `unverified` is true for a path
    that nobody has run on its hardware.
    """

    name: str
    version: str | None
    devices: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""
    unverified: bool = False

    @property
    def usable(self) -> bool:
        """Whether engines can be compiled and run here."""
        return self.version is not None and not self.problem


class Backend(Protocol):
    """A module of this package: it says whether it works here, and compiles."""

    PRECISIONS: tuple[str, ...]

    def status(self) -> Status:
        """Whether the backend can be used; never raises."""
        ...

    def compile(self, blueprint: Blueprint, options: Options) -> Engine:
        """Compile for fixed sizes; raises `Unavailable` or `BuildFailed`."""
        ...

    def identity(self, options: Options) -> dict[str, str]:
        """What an artefact depends on beside graph, weights, sizes and options.

        Such as the backend's version, the device's name, its driver. Raises `Unavailable`.
        """
        ...

    def build(self, blueprint: Blueprint, options: Options, folder: Path) -> None:
        """Compile, and write what `load` needs into an empty folder.

        Raises `Unavailable` or `BuildFailed`.
        """
        ...

    def load(self, blueprint: Blueprint, options: Options, folder: Path) -> Engine:
        """The engine that `build` wrote; raises `Unavailable` or `BuildFailed`."""
        ...


BACKENDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "openvino": "latentrt.engines.openvino",
        "onnxruntime": "latentrt.engines.onnxruntime",
    }
)
"""Module of each backend, the faster first."""


def backend(name: str) -> Backend:
    """The backend of that name; raises `InputError` for a name that nobody has."""
    if name not in BACKENDS:
        raise InputError("engine", f"one of auto, {', '.join(sorted(BACKENDS))}", repr(name))
    module: Any = importlib.import_module(BACKENDS[name])
    return module


def choose(name: str, options: Options) -> tuple[str, Backend]:
    """The backend asked for, or for "auto" the first that works here, with its name.

    Raises `InputError` for a precision that it has not, `Unavailable` with the command that would
    install one.
    """
    if name != "auto":
        chosen = backend(name)
        status = chosen.status()
        if not status.usable:
            raise Unavailable(f"engine {name}: {status.problem}; {status.remedy}")
        if options.precision not in chosen.PRECISIONS:
            expected = f"one of {', '.join(chosen.PRECISIONS)} for {name}"
            raise InputError("precision", expected, repr(options.precision))
        return name, chosen
    for candidate in BACKENDS:
        chosen = backend(candidate)
        if options.precision in chosen.PRECISIONS and chosen.status().usable:
            return candidate, chosen
    raise Unavailable(
        f"no engine for {options.precision} is installed; pip install 'latentrt[onnxruntime]'"
    )


def cpu_identity() -> dict[str, str]:
    """The CPU's name, the digest of its instruction sets, and how many CPUs may be used."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    flags = " ".join(sorted(facts.get("flags", facts.get("Features", "")).split()))
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "device": facts.get("model name") or platform.processor() or platform.machine(),
        "instruction sets": hashlib.sha256(flags.encode()).hexdigest()[:16],
        "cpus": str(len(affinity(0)) if affinity else os.cpu_count()),
    }


def check_inputs(component: str, specs: tuple[TensorSpec, ...], inputs: Arrays) -> None:
    """Raise `InputError` naming the first array that is missing, unknown or of another kind."""
    names = [s.name for s in specs]
    unknown = sorted(set(inputs) - set(names))
    if unknown:
        raise InputError(f"{component} input {unknown[0]!r}", f"one of {', '.join(names)}", "it")
    for spec in specs:
        array = inputs.get(spec.name)
        field = f"{component} input {spec.name!r}"
        if array is None:
            raise InputError(field, str(spec), "nothing")
        if array.shape != spec.dims or array.dtype != np.dtype(spec.dtype):
            got = f"({', '.join(str(n) for n in array.shape)}) {array.dtype}"
            raise InputError(field, str(spec), got)
