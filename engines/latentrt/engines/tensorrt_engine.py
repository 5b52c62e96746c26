"""A TensorRT plan at work: contexts, buffers that stay in place, and replayed CUDA graphs.

Unverified: nobody has run it on a GPU; the tests hold it over memory and a plan that are made up.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, EngineError, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda_memory import Bytes, Memory, Stream
from latentrt.engines.engine import Arrays, Blueprint, check_inputs

_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32"}
)
"""TensorRT's words for the dtypes that an array can have."""


@dataclass(slots=True)
class Buffer:
    """One input or output: at `address` on the GPU, and `array` in pinned memory.

    `current` says that the GPU holds what `array` holds.
    """

    address: int
    pinned: Bytes
    array: NDArray[Any]
    current: bool = False

    @staticmethod
    def of(spec: TensorSpec, memory: Memory) -> Buffer:
        """Room for an array whose dimensions are numbers."""
        dims, dtype = spec.shape({}), np.dtype(spec.dtype)
        size = int(np.prod(dims)) * dtype.itemsize
        pinned = memory.allocate_host(size)
        try:
            address = memory.allocate(size)
        except BaseException:
            memory.free_host(pinned)
            raise
        return Buffer(address, pinned, pinned.view(dtype).reshape(dims))

    def send(self, array: NDArray[Any], stream: Stream) -> None:
        """Copy an array to the GPU unless it is there, bit for bit.

        Content decides and not identity: the caller may write into an array between two calls.
        Comparing reads both, as filling the pinned memory would, and saves the copy over the bus.
        """
        if self.current and _same_bits(self.array, array):
            return
        self.current = False
        np.copyto(self.array, array)
        stream.upload(self.address, self.pinned)
        self.current = True

    def free(self, memory: Memory) -> None:
        """Give the memory back."""
        memory.free(self.address)
        memory.free_host(self.pinned)


class Execution:
    """One context of a plan with its buffers and its stream, for one call at a time.

    `plan` is what the context is of; it lives at least as long. Raises `EngineError` when the GPU
    has no room, and nothing is held then.
    """

    def __init__(
        self,
        plan: Any,
        context: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        memory: Memory,
    ) -> None:
        self._plan: Any = plan
        self._context: Any = context
        self._memory = memory
        self._stream = memory.stream()
        self._inputs: dict[str, Buffer] = {}
        self._outputs: dict[str, Buffer] = {}
        self._runs = 0
        self._replay: Callable[[], None] | None = None
        try:
            for specs, buffers in ((inputs, self._inputs), (outputs, self._outputs)):
                for spec in specs:
                    buffers[spec.name] = Buffer.of(spec, memory)
                    if not context.set_tensor_address(spec.name, buffers[spec.name].address):
                        raise EngineError(f"TensorRT does not take an address for {spec.name}")
        except BaseException:
            self.close()
            raise

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate checked inputs; the arrays returned are copies."""
        try:
            for name, buffer in self._inputs.items():
                buffer.send(inputs[name], self._stream)
            self._launch()
            self._stream.synchronize()
        except BaseException:
            # Nobody knows which of the copies arrived; none may arrive during the next call.
            for buffer in self._inputs.values():
                buffer.current = False
            self._settle()
            raise
        self._runs += 1
        return {name: buffer.array.copy() for name, buffer in self._outputs.items()}

    def close(self) -> None:
        """Free the context, its buffers and its stream, in the order in which they lean."""
        self._settle()
        self._replay = self._context = self._plan = None
        self._stream.close()
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.free(self._memory)

    def _settle(self) -> None:
        with contextlib.suppress(EngineError):  # of a call that has failed and said so
            self._stream.synchronize()

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
        if asked is not None and not asked(self._stream.handle):
            return None
        try:
            return self._stream.capture(self._enqueue)
        except EngineError:
            return None

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT did not start the engine")
        for buffer in self._outputs.values():
            self._stream.download(buffer.pinned, buffer.address)


class TensorRtEngine:
    """A plan on the GPU, with as many executions as there were calls at once.

    `plan` is what TensorRT deserialised; what has to outlive it is in `keep`, the longest first.
    Raises `BuildFailed` for a plan of other arrays than the blueprint's.
    """

    def __init__(self, blueprint: Blueprint, plan: Any, memory: Memory, keep: Any = None) -> None:
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        _check_arrays(plan, blueprint)
        self._plan = plan
        self._keep = keep
        self._memory = memory
        self._lock = threading.Lock()
        self._idle: list[Execution] = []

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype."""
        check_inputs(self.component, self.inputs, inputs)
        execution = self._take()
        try:
            return execution(inputs)
        finally:
            self._give(execution)

    def close(self) -> None:
        """Free the plan and every execution; one at work is freed when its call ends."""
        with self._lock:
            # An execution keeps the plan for its context, and what the plan was made with.
            self._plan = None
            self._keep = None
            idle, self._idle = self._idle, []
        for execution in idle:
            execution.close()

    def _take(self) -> Execution:
        with self._lock:
            if self._plan is None:
                raise Unavailable(f"{self.component}: the engine is closed")
            # The last one given back: a caller alone finds its own inputs on the GPU.
            if self._idle:
                return self._idle.pop()
            plan = (self._keep, self._plan)  # a tuple lets go of its last first
            context = self._plan.create_execution_context()
        if context is None:
            raise EngineError(f"{self.component}: TensorRT has no room for another context")
        return Execution(plan, context, self.inputs, self.outputs, self._memory)

    def _give(self, execution: Execution) -> None:
        with self._lock:
            if self._plan is not None:
                self._idle.append(execution)
                return
        execution.close()


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


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    # As integers: -0.0 is not 0.0, and a NaN is itself.
    bits = f"u{one.dtype.itemsize}"
    return np.array_equal(one.view(bits), other.view(bits))
