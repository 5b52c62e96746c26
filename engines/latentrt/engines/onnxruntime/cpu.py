"""ONNX Runtime on the CPU.

It computes in fp32 whatever the weights are stored in. It has no bfloat16 on the CPU. float16 was
no faster with models/shapes' U-Net, and rounds between nodes (relative error 3e-4).

Only the result of verification is stored. ONNX Runtime can write its optimised graph. For an SD 1.5
U-Net at 64x64 that is 3.4 GB of rearranged weights for each shape, and 11 s of writing. Loading it
takes 1 s instead of 8 s, but only after 3.4 GB have been hashed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.errors import Closed, EngineError, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays, Blueprint, Engine, check_inputs
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.halved import HalvedEngine, half_of
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions
from latentrt.engines.onnxruntime.session import norms_written_out, package, session, settings
from latentrt.engines.process import Home, keep_in_children
from latentrt.engines.processor import cpu_identity, usable_cores
from latentrt.engines.registry import Progress, Status

NAME: Final = "onnxruntime"
_REMEDY: Final = "pip install 'latentrt[onnxruntime]'"
_SMALL: Final = 256 * 256
"""Pixels up to which norms are written out; SD 1.5's decoder at 512x512 would take 4 % longer."""


def status() -> Status:
    """Installed or not."""
    try:
        api = package(NAME, _REMEDY)
    except Unavailable as error:
        return Status(None, problem=f"not installed ({error.__cause__})", remedy=_REMEDY)
    return Status(str(api.__version__), devices=("CPU",))


class OnnxRuntimeEngine:
    """A session with every dimension fixed."""

    def __init__(self, blueprint: Blueprint, session: Any) -> None:
        self._home = Home("engine")
        keep_in_children(self)
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        self._names = [spec.name for spec in self.outputs]
        self._session: Any = session

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype, `EngineError`."""
        self._home.check()
        check_inputs(self.component, self.inputs, inputs)
        session = self._session
        if session is None:
            raise Closed(f"{self.component}: the engine is closed")
        try:
            values = session.run(self._names, dict(inputs))
        except Exception as error:  # the package raises bare classes of its own, one a kind
            raise EngineError(f"{self.component}: ONNX Runtime says: {error}") from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Free the session and its memory."""
        if self._home.here:
            self._session = None


def compile(blueprint: Blueprint, options: OnnxRuntimeOptions) -> Engine:
    """A session for these sizes; raises `Unavailable` or `BuildFailed`."""
    half = _half(blueprint, options)
    if half is None:
        return _compiled(blueprint, options, options.threads, small=_is_small(blueprint))
    # Without threads of its own: each half is evaluated by the thread that calls it.
    return HalvedEngine(blueprint, _compiled(half, options, 1, small=_is_small(blueprint)))


def compile_reference(blueprint: Blueprint) -> OnnxRuntimeEngine:
    """A session for a few calls in fp32: the graph is not optimised, and no weight rearranged.

    That takes a third of the memory and of the time until it is ready (SD 1.5's U-Net: 2 instead of
    6.5 GB), and calls take longer. Raises `Unavailable` or `BuildFailed`.
    """
    api = package(NAME, _REMEDY)
    graph = OnnxGraph.of(blueprint.at("fp32"))
    chosen = settings(api, graph)
    chosen.graph_optimization_level = api.GraphOptimizationLevel.ORT_DISABLE_ALL
    chosen.add_session_config_entry("session.disable_prepacking", "1")
    chosen.enable_cpu_mem_arena = False
    made = session(api, norms_written_out(graph), chosen, ["CPUExecutionProvider"])
    return OnnxRuntimeEngine(blueprint, made)


def _compiled(
    blueprint: Blueprint, options: OnnxRuntimeOptions, threads: int | None, *, small: bool
) -> OnnxRuntimeEngine:
    api = package(NAME, _REMEDY)
    graph = OnnxGraph.of(blueprint)
    chosen = settings(api, graph)
    # Each session has threads of its own. After a call they would spin-wait for milliseconds, on
    # the cores of the next component. With this a picture of models/shapes takes 0.16 instead of
    # 0.24 s.
    chosen.add_session_config_entry("session.force_spinning_stop", "1")
    chosen.enable_cpu_mem_arena = options.arena
    chosen.enable_mem_pattern = options.arena
    if threads is not None:
        chosen.intra_op_num_threads = threads
    if small:
        graph = norms_written_out(graph)
    return OnnxRuntimeEngine(blueprint, session(api, graph, chosen, ["CPUExecutionProvider"]))


def _half(blueprint: Blueprint, options: OnnxRuntimeOptions) -> Blueprint | None:
    """The blueprint of half the rows where two halves are evaluated at once, else None.

    That is with two threads, one for each half. The default is one thread for each core. With more,
    both would share those of one session, which was not measured.
    """
    threads = usable_cores() if options.threads is None else options.threads
    return half_of(blueprint) if threads == 2 else None


def _is_small(blueprint: Blueprint) -> bool:
    """Whether the largest picture or latent that goes in or out is small."""
    arrays = (*blueprint.fixed_inputs, *blueprint.fixed_outputs)
    return max(math.prod(s.shape({})[2:]) for s in arrays) <= _SMALL


def identity(options: OnnxRuntimeOptions) -> dict[str, str]:
    """ONNX Runtime's version, and the CPU; raises `Unavailable`."""
    return {"version": str(package(NAME, _REMEDY).__version__), **cpu_identity()}


def build(
    blueprint: Blueprint,
    options: OnnxRuntimeOptions,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Write nothing: loading a stored session gains nothing (see above)."""


def load(blueprint: Blueprint, options: OnnxRuntimeOptions, folder: Path) -> Engine:
    """A session for these sizes; nothing is read from `folder`.

    Raises `Unavailable` or `BuildFailed`.
    """
    return compile(blueprint, options)
