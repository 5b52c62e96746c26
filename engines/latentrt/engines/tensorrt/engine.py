"""A TensorRT plan at work: contexts, buffers that stay in place, and replayed CUDA graphs.

Unverified: never run on a GPU. The tests use fake memory and a fake plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, EngineError
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda.buffers import Buffers, Pool, close_with
from latentrt.engines.cuda.memory import DeviceMemory
from latentrt.engines.engine import Arrays, Blueprint, check_inputs
from latentrt.engines.process import Home, keep_in_children
from latentrt.engines.tensorrt.kernels import Kernels

_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32"}
)
"""TensorRT's words for the dtypes that an array can have."""


class Execution:
    """One context of a plan with its buffers and its stream, for one call at a time.

    `plan` is what the context is of; it lives at least as long. `kernels` are what it compiles,
    None where that is nothing. Raises `EngineError` when the GPU has no room, and nothing is held
    then.
    """

    def __init__(
        self,
        plan: Any,
        kernels: Kernels | None,
        context: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        memory: DeviceMemory,
    ) -> None:
        self._plan: Any = plan
        self._kernels = kernels
        self._context: Any = context
        self._buffers = Buffers(inputs, outputs, memory)
        self._runs = 0
        self._replay: Callable[[], None] | None = None
        try:
            for name, buffer in (self._buffers.inputs | self._buffers.outputs).items():
                if not context.set_tensor_address(name, buffer.address):
                    raise EngineError(f"TensorRT does not take an address for {name}")
        except BaseException:
            self.close()
            raise

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate checked inputs; the arrays returned are copies."""
        outputs = self._buffers.call(inputs, self._launch)
        self._runs += 1
        return outputs

    def compiled(self) -> bytes:
        """The kernels that were compiled so far, for any context of the plan."""
        return b"" if self._kernels is None else self._kernels.stored()

    def close(self) -> None:
        """Free the context, its buffers and its stream, in the order in which they lean."""
        self._buffers.settle()
        self._replay = self._context = self._kernels = self._plan = None
        self._buffers.close()

    def _launch(self) -> None:
        # TensorRT sets itself up in the first run, which is why that one is never captured. A
        # graph holds the run and the copies back, at addresses that do not change.
        if self._runs == 1:
            self._replay = self._captured()
        if self._replay is None:
            self._enqueue()
        else:
            self._replay()

    def _captured(self) -> Callable[[], None] | None:
        # Only TensorRT for RTX can be asked first.
        asked = getattr(self._context, "is_stream_capturable", None)
        if asked is not None and not asked(self._buffers.stream.handle):
            return None
        try:
            return self._buffers.stream.capture(self._enqueue)
        except EngineError:
            return None

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._buffers.stream.handle):
            raise EngineError("TensorRT did not start the engine")
        self._buffers.download()


class TensorRtEngine:
    """A plan on the GPU, with an execution for each of a few calls at once.

    `plan` is what TensorRT deserialised; what has to outlive it is in `keep`, the longest first.
    `kernels` are what its contexts still compile, None where that is nothing. Raises `BuildFailed`
    for a plan of other arrays than the blueprint's.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        plan: Any,
        memory: DeviceMemory,
        keep: Any = None,
        kernels: Kernels | None = None,
    ) -> None:
        self._home = Home("engine")
        keep_in_children(self)
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        _check_arrays(plan, blueprint)
        # An execution keeps the plan for its context, and what the plan was made with; a tuple lets
        # go of its last first.
        held = (keep, plan, kernels)
        component, inputs, outputs = self.component, self.inputs, self.outputs

        def execution() -> Execution:
            context: Any = (
                plan.create_execution_context() if kernels is None else kernels.context(plan)
            )
            if context is None:
                raise EngineError(f"{component}: TensorRT has no room for another context")
            return Execution(held, kernels, context, inputs, outputs, memory)

        self._pool = Pool(component, execution)
        close_with(self, self._pool)

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype."""
        self._home.check()
        check_inputs(self.component, self.inputs, inputs)
        with self._pool.one() as execution:
            return execution(inputs)

    def compiled(self) -> bytes:
        """The kernels that calls had to compile so far; nothing where plans are finished."""
        with self._pool.one() as execution:
            return execution.compiled()

    def close(self) -> None:
        """Free the plan and every execution; one at work is freed when its call ends."""
        if self._home.here:
            self._pool.close()


def _check_arrays(plan: Any, blueprint: Blueprint) -> None:
    """Raise `BuildFailed` unless the buffers will be of the plan's own shapes and dtypes."""
    names: list[str] = [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]
    found = {name: _array(plan, name) for name in names}
    specs = (*blueprint.fixed_inputs, *blueprint.fixed_outputs)
    if found != {s.name: (s.dims, s.dtype) for s in specs}:
        raise BuildFailed(f"{blueprint.component}: the plan is of other arrays: {found}")


def _array(plan: Any, name: str) -> tuple[tuple[int, ...], str]:
    word: str = plan.get_tensor_dtype(name).name
    return tuple(plan.get_tensor_shape(name)), _DTYPES.get(word, word)
