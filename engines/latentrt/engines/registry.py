"""Every backend: one record each, in one table.

A record imports what compiles only when that is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

from latentrt.bundle.errors import InputError, Unavailable
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions, OnnxRuntimeTensorRtOptions
from latentrt.engines.openvino.options import OpenVinoGpuOptions, OpenVinoOptions
from latentrt.engines.options import NoOptions, names_of, parsed, unknown_option
from latentrt.engines.tensorrt.options import TensorRtOptions

Progress = Callable[[str, int, int], None]
"""Told how far a build is: the name of its phase, steps done, steps in all."""

PRECISIONS: Final = ("fp32", "fp16", "bf16")
"""Every precision that some backend has."""

DeviceKind = Literal["cpu", "cuda", "intel"]
"""A CPU, an NVIDIA GPU, or an Intel GPU or NPU."""


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a backend can be used here.

    `version` is None where it is not installed; `devices` are those that it found; `problem` and
    `remedy` say what is missing and the command that would help.
    """

    version: str | None
    devices: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""

    @property
    def usable(self) -> bool:
        """Whether engines can be compiled and run here."""
        return self.version is not None and not self.problem


class Compiler(Protocol):
    """What a backend's module has: it says whether it works here, compiles, stores and loads.

    `options` is an instance of the options class of the backend's record.
    """

    def status(self) -> Status:
        """Whether the backend can be used; never raises."""
        ...

    def identity(self, options: Any) -> dict[str, str]:
        """What an engine depends on beside graph, weights, sizes, precision and options.

        Such as the backend's version, the device's name, its driver. Raises `Unavailable`.
        """
        ...

    def compile(self, blueprint: Blueprint, options: Any) -> Engine:
        """Compile for fixed sizes; raises `Unavailable` or `BuildFailed`."""
        ...

    def build(
        self,
        blueprint: Blueprint,
        options: Any,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Compile, and write what `load` needs into an empty folder.

        Raises `Unavailable` or `BuildFailed`, and whatever `progress` raises.
        """
        ...

    def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        """The engine that `build` wrote; raises `Unavailable` or `BuildFailed`."""
        ...


def _everywhere(precision: str) -> bool:
    del precision
    return True


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to compile engines.

    `known` are the precisions that such devices compute in, by the dtype of a graph, the default
    one first; `options` is the class of its options; `extra` is what `pip install` needs; `find`
    imports its compiler. `computes` says whether this machine computes in a precision. `unverified`
    is the reason for which "auto" leaves it alone. `timed` says that loading times kernels and
    chooses among them, so that the engine is not the one that was verified.
    """

    name: str
    device: DeviceKind
    known: Mapping[str, tuple[str, ...]]
    options: type[Any]
    extra: str
    find: Callable[[], Compiler]
    computes: Callable[[str], bool] = _everywhere
    unverified: str = ""
    timed: bool = False

    @property
    def compiler(self) -> Compiler:
        """What compiles; imported now, if it was not."""
        return self.find()

    @property
    def precisions(self) -> Mapping[str, tuple[str, ...]]:
        """What it computes in on this machine, by the dtype of a graph."""
        return {
            dtype: tuple(p for p in known if self.computes(p))
            for dtype, known in self.known.items()
        }

    def status(self) -> Status:
        """Whether it can be used here; never raises."""
        return self.compiler.status()

    def compile(self, blueprint: Blueprint, options: Any = None) -> Engine:
        """An engine that is not stored; raises `Unavailable` or `BuildFailed`."""
        return self.compiler.compile(blueprint, self.options() if options is None else options)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A backend, the precision that it will compute in, and its options (None: the defaults)."""

    backend: Backend
    precision: str = "fp32"
    options: Any = None

    def __post_init__(self) -> None:
        if self.options is None:
            object.__setattr__(self, "options", self.backend.options())

    @property
    def name(self) -> str:
        """The name of the backend."""
        return self.backend.name

    @property
    def compiler(self) -> Compiler:
        """What compiles."""
        return self.backend.compiler

    @property
    def target(self) -> str | None:
        """The compute capability to build for; None for this machine's."""
        return getattr(self.options, "target", None)

    @property
    def stripped(self) -> bool:
        """Whether what is stored lacks the weights, which are put in when it is loaded."""
        return bool(getattr(self.options, "stripped", False))

    def compile(self, blueprint: Blueprint) -> Engine:
        """An engine that is not stored; raises `Unavailable` or `BuildFailed`."""
        return self.compiler.compile(blueprint.at(self.precision), self.options)


def _import(module: str, attribute: str = "") -> Any:
    imported: Any = importlib.import_module(f"latentrt.engines.{module}")
    return getattr(imported, attribute) if attribute else imported


def _computes_on_cpu(precision: str) -> bool:
    """OpenVINO takes fp32 on a CPU without bf16, and does not say so: it is asked before."""
    return precision != "bf16" or _import("openvino.backend").computes_bf16()


_NOT_RUN: Final = "never run on its hardware"
_DTYPES: Final = ("float32", "float16", "bfloat16")
_OWN_OR_FP32: Final = MappingProxyType(
    {"float32": ("fp32",), "float16": ("fp16", "fp32"), "bfloat16": ("bf16", "fp32")}
)

_RECORDS: Final = (
    Backend(
        name="tensorrt",
        device="cuda",
        known=_OWN_OR_FP32,
        options=TensorRtOptions,
        extra="tensorrt",
        find=partial(_import, "tensorrt.backend"),
        unverified=_NOT_RUN,
    ),
    Backend(
        name="onnxruntime-tensorrt-rtx",
        device="cuda",
        known=_OWN_OR_FP32,
        options=NoOptions,
        extra="onnxruntime-tensorrt-rtx",
        find=partial(_import, "onnxruntime.tensorrt", "RTX"),
        unverified=_NOT_RUN,
        timed=True,
    ),
    Backend(
        name="onnxruntime-tensorrt",
        device="cuda",
        known=_OWN_OR_FP32,
        options=OnnxRuntimeTensorRtOptions,
        extra="onnxruntime-tensorrt",
        find=partial(_import, "onnxruntime.tensorrt", "PROVIDER"),
        unverified=_NOT_RUN,
        timed=True,
    ),
    Backend(
        name="onnxruntime-cuda",
        device="cuda",
        # It has no bfloat16 convolution.
        known={"float32": ("fp32",), "float16": ("fp16", "fp32"), "bfloat16": ("fp32",)},
        options=NoOptions,
        extra="onnxruntime-gpu",
        find=partial(_import, "onnxruntime.cuda", "PROVIDER"),
        unverified=_NOT_RUN,
        timed=True,  # cuDNN tries its convolutions
    ),
    Backend(
        name="openvino-gpu",
        device="intel",
        known={
            "float32": ("fp32", "fp16"),
            "float16": ("fp16", "fp32"),
            "bfloat16": ("fp32", "fp16"),
        },
        options=OpenVinoGpuOptions,
        extra="openvino",
        find=partial(_import, "openvino.backend", "GPU"),
        unverified=_NOT_RUN,
    ),
    Backend(
        name="openvino-npu",
        device="intel",
        known=dict.fromkeys(_DTYPES, ("fp16",)),
        options=NoOptions,
        extra="openvino",
        find=partial(_import, "openvino.backend", "NPU"),
        unverified=_NOT_RUN,
    ),
    Backend(
        name="openvino",
        device="cpu",
        # However weights are stored, computing in fp32 adds no error of its own.
        known=dict.fromkeys(_DTYPES, ("fp32", "bf16")),
        options=OpenVinoOptions,
        extra="openvino",
        find=partial(_import, "openvino.backend", "CPU"),
        computes=_computes_on_cpu,
    ),
    Backend(
        name="onnxruntime",
        device="cpu",
        known=dict.fromkeys(_DTYPES, ("fp32",)),
        options=OnnxRuntimeOptions,
        extra="onnxruntime",
        find=partial(_import, "onnxruntime.cpu"),
    ),
)

BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType({each.name: each for each in _RECORDS})
"""Every backend by its name, the faster before the slower."""


def backend(name: str) -> Backend:
    """The backend of that name; raises `InputError` for an unknown name."""
    if name not in BACKENDS:
        raise InputError("engine", f"one of auto, {', '.join(sorted(BACKENDS))}", repr(name))
    return BACKENDS[name]


def choose(
    name: str,
    dtype: str,
    precision: str = "auto",
    options: Mapping[str, object] = MappingProxyType({}),
) -> Chosen:
    """The backend asked for, or for "auto" the first that works here, for a graph of that dtype.

    "auto" takes none that is unverified, and prefers one that has all the options. A precision of
    "auto" becomes the backend's own. Raises `InputError` for a precision or an option that the
    backend has not, `Unavailable` with the command that would install one.
    """
    if name == "auto":
        return _fastest(dtype, precision, options)
    chosen = _settled(backend(name), dtype, precision, options)
    status = chosen.backend.status()
    if not status.usable and (chosen.target is None or status.version is None):
        raise Unavailable(f"engine {name}: {status.problem}; {status.remedy}")
    return chosen


def _fastest(dtype: str, precision: str, options: Mapping[str, object]) -> Chosen:
    usable = [each for each in BACKENDS.values() if not each.unverified and each.status().usable]
    if not usable:
        raise Unavailable("no engine is installed; pip install 'latentrt[cpu]'")
    problems: list[InputError] = []
    for each in usable:
        try:
            return _settled(each, dtype, precision, options)
        except InputError as error:
            problems.append(error)
    lacking = [o for o in options if all(o not in names_of(each.options) for each in usable)]
    if lacking:
        raise unknown_option(lacking[0], {each.name: each.options for each in usable})
    raise problems[0]


def _settled(chosen: Backend, dtype: str, precision: str, options: Mapping[str, object]) -> Chosen:
    known = chosen.precisions.get(dtype, ())
    if not known:
        raise InputError("engine", f"one that takes {dtype} weights", chosen.name)
    if not isinstance(precision, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError("precision", "a name", repr(precision))
    if precision not in ("auto", *known):
        expected = (
            f"one of {', '.join(known)} for {chosen.name} and {dtype} weights on this machine"
        )
        raise InputError("precision", expected, repr(precision))
    own = known[0] if precision == "auto" else precision
    return Chosen(chosen, own, parsed(chosen.name, chosen.options, options))
