"""ONNX Runtime on the CPU.

It computes in fp32 whatever the weights are stored in: it has no bfloat16 there, and float16 was no
faster on models/shapes' U-Net and rounds between nodes (relative error 3e-4).

Nothing is stored but that an engine was verified. ONNX Runtime can write its optimised graph, yet
for an SD 1.5 U-Net at 64x64 that is 3.4 GB of rearranged weights for each shape, 11 s to write;
loading it takes 1 s instead of 8 s, but only after 3.4 GB have been hashed.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, Closed, EngineError, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays, Blueprint, Options, check_inputs
from latentrt.engines.graphs.group_norm import write_out_group_norms
from latentrt.engines.half_batch import half_of
from latentrt.engines.onnxruntime.session import SessionModel, package, session, settings
from latentrt.engines.process import Home, keep_in_children
from latentrt.engines.registry import Progress, Status, cpu_identity, usable_cores

NAME: Final = "onnxruntime"
PRECISIONS: Final = {"float32": ("fp32",), "float16": ("fp32",), "bfloat16": ("fp32",)}
OPTIONS: Final = frozenset({"threads", "arena"})
TIMED: Final = False  # made anew, but always the same way
_REMEDY: Final = "pip install 'latentrt[onnxruntime]'"
_SMALL: Final = 256 * 256
"""Pixels up to which norms are written out; SD 1.5's decoder at 512x512 would take 4 % longer."""


def status() -> Status:
    """Installed or not."""
    try:
        api = package(NAME, _REMEDY)
    except Unavailable as error:
        problem = f"not installed ({error.__cause__})"
        return Status(NAME, None, problem=problem, remedy=_REMEDY)
    return Status(NAME, str(api.__version__), devices=("CPU",))


class _Whole:
    """A session of all rows."""

    def __init__(self, made: Any, names: list[str]) -> None:
        self._session, self._names = made, names

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        return self._session.run(self._names, dict(inputs))


class _Halved:
    """A session of half the rows without threads of its own: the caller's and one beside it."""

    def __init__(self, made: Any, names: list[str]) -> None:
        self._session, self._names = made, names
        # Made when they are needed; they end when nobody holds this any more.
        self._beside = ThreadPoolExecutor(thread_name_prefix="latentrt-half")

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        rows = len(next(iter(inputs.values()))) // 2
        first = {name: array[:rows] for name, array in inputs.items()}
        second = {name: array[rows:] for name, array in inputs.items()}
        try:
            behind = self._beside.submit(self._run, second)
        except RuntimeError:  # no thread is begun once the main one has ended
            return _joined(self._run(first), self._run(second))
        try:
            ahead = self._run(first)
        finally:
            wait([behind])
        return _joined(ahead, behind.result())

    def _run(self, inputs: Arrays) -> list[NDArray[Any]]:
        return self._session.run(self._names, inputs)


def _joined(ahead: list[NDArray[Any]], behind: list[NDArray[Any]]) -> list[NDArray[Any]]:
    return [np.concatenate(pair) for pair in zip(ahead, behind, strict=True)]


class OnnxRuntimeEngine:
    """A session of all rows, or of half of them, with every dimension fixed."""

    def __init__(self, blueprint: Blueprint, made: Any, *, halved: bool = False) -> None:
        self._home = Home("engine")
        keep_in_children(self)
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        names = [spec.name for spec in self.outputs]
        self._rows: _Whole | _Halved | None = (_Halved if halved else _Whole)(made, names)

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype, `EngineError`."""
        self._home.check()
        check_inputs(self.component, self.inputs, inputs)
        rows = self._rows
        if rows is None:
            raise Closed(f"{self.component}: the engine is closed")
        try:
            values = rows(inputs)
        except Exception as error:  # the package raises bare classes of its own, one a kind
            raise EngineError(f"{self.component}: ONNX Runtime says: {error}") from error
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def close(self) -> None:
        """Free the session and its memory."""
        if self._home.here:
            self._rows = None


def compile(blueprint: Blueprint, options: Options) -> OnnxRuntimeEngine:
    """A session for these sizes; raises `Unavailable` or `BuildFailed`."""
    api = package(NAME, _REMEDY)
    half = _half(blueprint, options)
    model = SessionModel.of(half or blueprint, options.precision)
    chosen = settings(api, model.blueprint)
    # Each session has threads of its own, which after a call would go on turning in circles for
    # milliseconds, on the cores of the next component's: with this a picture of models/shapes
    # takes 0.16 instead of 0.24 s.
    chosen.add_session_config_entry("session.force_spinning_stop", "1")
    chosen.enable_cpu_mem_arena = options.arena
    chosen.enable_mem_pattern = options.arena
    if half is not None:
        chosen.intra_op_num_threads = 1
    elif options.threads is not None:
        chosen.intra_op_num_threads = options.threads
    if _positions(blueprint) <= _SMALL:
        model = _norms_written_out(model)
    made = session(api, model, chosen, ["CPUExecutionProvider"])
    whole = replace(model.blueprint, sizes=blueprint.sizes)
    return OnnxRuntimeEngine(whole, made, halved=half is not None)


def _half(blueprint: Blueprint, options: Options) -> Blueprint | None:
    """The blueprint of half the rows where two halves are evaluated at once, else None.

    That is with two threads, of which each half then is one; by itself ONNX Runtime has one for
    each core. With more, both would share those of one session, which was not measured.
    """
    threads = usable_cores() if options.threads is None else options.threads
    return half_of(blueprint) if threads == 2 else None


def _norms_written_out(model: SessionModel) -> SessionModel:
    try:
        return replace(model, graph=write_out_group_norms(model.graph))
    except BuildFailed as error:
        raise BuildFailed(f"{model.blueprint.component}: {error}") from error


def _positions(blueprint: Blueprint) -> int:
    """The pixels of the largest picture, or places of the largest latent, that goes in or out."""
    arrays = (*blueprint.fixed_inputs, *blueprint.fixed_outputs)
    return max(math.prod(s.shape({})[2:]) for s in arrays)


def identity(options: Options) -> dict[str, str]:
    """ONNX Runtime's version, and the CPU; raises `Unavailable`."""
    return {"version": str(package(NAME, _REMEDY).__version__), **cpu_identity()}


def build(
    blueprint: Blueprint, options: Options, folder: Path, *, progress: Progress | None = None
) -> None:
    """Write nothing: loading a stored session gains nothing (see above)."""


def load(blueprint: Blueprint, options: Options, folder: Path) -> OnnxRuntimeEngine:
    """A session for these sizes, made anew; raises `Unavailable` or `BuildFailed`."""
    return compile(blueprint, options)
