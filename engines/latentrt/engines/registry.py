"""What compiles engines, and how one is had by name.

Each backend is imported only when it is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

from latentrt.bundle.errors import InputError, Unavailable
from latentrt.engines.engine import Blueprint, Engine, Options

Progress = Callable[[str, int, int], None]
"""Told how far a build is: the name of its phase, steps done, steps in all."""

PRECISIONS: Final = ("fp32", "fp16", "bf16")
"""Every precision that some backend has."""


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
    """Says whether it works here, and compiles.

    `PRECISIONS` is what it can compute in on this machine, by the dtype that a graph is in, the one
    that it takes by itself first; `OPTIONS` are the fields of `Options` that it heeds besides the
    precision; `TIMED` says that `load` makes the engine anew, choosing kernels by how fast they are
    just then, so that what it gives is not what was verified.
    """

    @property
    def PRECISIONS(self) -> Mapping[str, tuple[str, ...]]: ...  # noqa: N802

    @property
    def OPTIONS(self) -> frozenset[str]: ...  # noqa: N802

    @property
    def TIMED(self) -> bool: ...  # noqa: N802

    def status(self) -> Status:
        """Whether the backend can be used; never raises."""
        ...

    def compile(self, blueprint: Blueprint, options: Options) -> Engine:
        """Compile for fixed sizes; raises `Unavailable` or `BuildFailed`."""
        ...

    def identity(self, options: Options) -> dict[str, str]:
        """What an entry depends on beside graph, weights, sizes and options.

        Such as the backend's version, the device's name, its driver. Raises `Unavailable`.
        """
        ...

    def build(
        self,
        blueprint: Blueprint,
        options: Options,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Compile, and write what `load` needs into an empty folder.

        Raises `Unavailable` or `BuildFailed`, and whatever `progress` raises.
        """
        ...

    def load(self, blueprint: Blueprint, options: Options, folder: Path) -> Engine:
        """The engine that `build` wrote; raises `Unavailable` or `BuildFailed`."""
        ...


BACKENDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tensorrt": "latentrt.engines.tensorrt.backend",
        "onnxruntime-tensorrt-rtx": "latentrt.engines.onnxruntime.tensorrt:RTX",
        "onnxruntime-tensorrt": "latentrt.engines.onnxruntime.tensorrt:BACKEND",
        "onnxruntime-cuda": "latentrt.engines.onnxruntime.cuda:BACKEND",
        "openvino-gpu": "latentrt.engines.openvino.backend:GPU",
        "openvino-npu": "latentrt.engines.openvino.backend:NPU",
        "openvino": "latentrt.engines.openvino.backend:CPU",
        "onnxruntime": "latentrt.engines.onnxruntime.cpu",
    }
)
"""Where each backend is, module or module:object, the faster first."""

DeviceKind = Literal["cpu", "cuda", "intel"]
"""A CPU, an NVIDIA GPU, or an Intel GPU or NPU."""

DEVICE_KINDS: Final[Mapping[str, DeviceKind]] = MappingProxyType(
    {
        "tensorrt": "cuda",
        "onnxruntime-tensorrt-rtx": "cuda",
        "onnxruntime-tensorrt": "cuda",
        "onnxruntime-cuda": "cuda",
        "openvino-gpu": "intel",
        "openvino-npu": "intel",
        "openvino": "cpu",
        "onnxruntime": "cpu",
    }
)
"""What the engines of each backend run on."""

_TOPOLOGY: Final = Path("/sys/devices/system/cpu")
UNVERIFIED: Final = frozenset(BACKENDS) - {"openvino", "onnxruntime"}
"""Those that nobody has run on their hardware, which "auto" leaves alone."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A backend by its name, and options with the precision that it will compute in."""

    name: str
    backend: Backend
    options: Options


def backend(name: str) -> Backend:
    """The backend of that name; raises `InputError` for a name that nobody has."""
    if name not in BACKENDS:
        raise InputError("engine", f"one of auto, {', '.join(sorted(BACKENDS))}", repr(name))
    module, _, attribute = BACKENDS[name].partition(":")
    imported: Any = importlib.import_module(module)
    return getattr(imported, attribute) if attribute else imported


def choose(name: str, options: Options, dtype: str) -> Chosen:
    """The backend asked for, or for "auto" the first that works here, for a graph of that dtype.

    "auto" takes none that is unverified. A precision of "auto" becomes the backend's own. Raises
    `InputError` for a precision or an option that the backend has not, `Unavailable` with the
    command that would install one.
    """
    if name == "auto":
        return _fastest(options, dtype)
    chosen = backend(name)
    problem = _problem(name, chosen, options, dtype)
    if problem is not None:
        raise problem
    status = chosen.status()
    if not status.usable and (options.target is None or status.version is None):
        raise Unavailable(f"engine {name}: {status.problem}; {status.remedy}")
    return Chosen(name, chosen, _settled(chosen, options, dtype))


def _fastest(options: Options, dtype: str) -> Chosen:
    problems: list[InputError] = []
    for name in (name for name in BACKENDS if name not in UNVERIFIED):
        chosen = backend(name)
        if not chosen.status().usable:
            continue
        problem = _problem(name, chosen, options, dtype)
        if problem is None:
            return Chosen(name, chosen, _settled(chosen, options, dtype))
        problems.append(problem)
    if problems:
        raise _elsewhere(problems[0])
    raise Unavailable("no engine is installed; pip install 'latentrt[openvino]'")


def _elsewhere(problem: InputError) -> InputError:
    """What no engine of "auto" has, with the names of those that have it."""
    takers = [name for name in BACKENDS if problem.field in backend(name).OPTIONS]
    if not takers:
        return problem
    expected = f"an engine that has it (--engine {' or '.join(takers)})"
    return InputError(problem.field, expected, "auto")


def _problem(name: str, chosen: Backend, options: Options, dtype: str) -> InputError | None:
    """What of the options the backend has not."""
    known = chosen.PRECISIONS.get(dtype, ())
    if not known:
        return InputError("engine", f"one that takes {dtype} weights", name)
    if options.precision not in ("auto", *known):
        expected = f"one of {', '.join(known)} for {name} and {dtype} weights on this machine"
        return InputError("precision", expected, repr(options.precision))
    for field in fields(Options):
        asked: object = getattr(options, field.name)
        if field.name not in {"precision", *chosen.OPTIONS} and asked != field.default:
            return InputError(field.name, f"nothing: {name} has no such option", asked)
    return None


def _settled(chosen: Backend, options: Options, dtype: str) -> Options:
    if options.precision != "auto":
        return options
    return replace(options, precision=chosen.PRECISIONS[dtype][0])


def cpu_identity() -> dict[str, str]:
    """The CPU's name, the digest of its instruction sets, and how many CPUs may be used."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    flags = " ".join(sorted(facts.get("flags", facts.get("Features", "")).split()))
    return {
        "device": facts.get("model name") or platform.processor() or platform.machine(),
        "instruction sets": hashlib.sha256(flags.encode()).hexdigest()[:16],
        "cpus": str(len(_usable_cpus())),
        "cores": str(usable_cores()),
    }


def usable_cores() -> int:
    """How many cores have a CPU that this process may use; CPUs, where nothing tells of cores."""
    return len({_core_of(cpu) for cpu in _usable_cpus()})


def _usable_cpus() -> Collection[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else range(os.cpu_count() or 1)


def _core_of(cpu: int) -> str:
    """The CPUs of the same core, or the CPU itself."""
    try:
        return (_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text("utf-8")
    except OSError:
        return str(cpu)
