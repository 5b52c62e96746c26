"""An ONNX Runtime session on a device, its inputs and outputs bound to memory that stays in place.

Unverified on a GPU; the tests bind a session of the CPU to the host's own memory.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import EngineError, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda_memory import Memory
from latentrt.engines.engine import Arrays, Blueprint, check_inputs
from latentrt.engines.tensorrt_engine import Buffer


class Binding:
    """Buffers for one call at a time, bound to a session; `number` tells its CUDA graph apart."""

    def __init__(
        self,
        api: Any,
        session: Any,
        number: int,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        memory: Memory,
        device: str,
    ) -> None:
        self._session: Any = session
        self._memory = memory
        self._stream = memory.stream()
        self._inputs: dict[str, Buffer] = {}
        self._outputs: dict[str, Buffer] = {}
        self._bound: Any = session.io_binding()
        self._options: Any = api.RunOptions()
        # A CUDA graph replays the addresses that it was captured with; the second is what the
        # plugin provider calls the first.
        for key in ("gpu_graph_id", "cuda_graph_annotation_id"):
            self._options.add_run_config_entry(key, str(number))
        try:
            for spec in inputs:
                self._bind(self._bound.bind_input, self._inputs, spec, device)
            for spec in outputs:
                self._bind(self._bound.bind_output, self._outputs, spec, device)
        except BaseException:
            self.close()
            raise

    def __call__(self, inputs: Arrays, turn: threading.Lock) -> dict[str, NDArray[Any]]:
        """Evaluate checked inputs, running the session in `turn`; what is returned are copies."""
        try:
            for name, buffer in self._inputs.items():
                buffer.send(inputs[name], self._stream)
            # ONNX Runtime has a stream of its own, and returns when that has done its work.
            self._stream.synchronize()
            with turn:
                self._run()
            for buffer in self._outputs.values():
                self._stream.download(buffer.pinned, buffer.address)
            self._stream.synchronize()
        except BaseException:
            # Nobody knows which of the copies arrived; none may arrive during the next call.
            for buffer in self._inputs.values():
                buffer.current = False
            self._settle()
            raise
        return {name: buffer.array.copy() for name, buffer in self._outputs.items()}

    def close(self) -> None:
        """Free the buffers and the stream."""
        self._settle()
        self._bound = self._session = None
        self._stream.close()
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.free(self._memory)

    def _bind(self, bind: Any, buffers: dict[str, Buffer], spec: TensorSpec, device: str) -> None:
        buffer = buffers[spec.name] = Buffer.of(spec, self._memory)
        dtype = np.dtype(spec.dtype).type
        bind(spec.name, device, 0, dtype, list(spec.shape({})), buffer.address)

    def _run(self) -> None:
        try:
            self._session.run_with_iobinding(self._bound, self._options)
        except Exception as error:  # the package raises bare classes of its own, one a kind
            raise EngineError(f"ONNX Runtime says: {error}") from error

    def _settle(self) -> None:
        with contextlib.suppress(EngineError):  # of a call that has failed and said so
            self._stream.synchronize()


class BoundEngine:
    """A session with as many bindings as there were calls at once.

    `device` is where ONNX Runtime is told that `memory` is.
    """

    def __init__(
        self, blueprint: Blueprint, api: Any, session: Any, memory: Memory, device: str = "cuda"
    ) -> None:
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        self._api: Any = api
        self._session: Any = session
        self._memory = memory
        self._device = device
        self._lock = threading.Lock()
        # A session with CUDA graphs is not to be run by two threads at once; the GPU works on one
        # call at a time in any case.
        self._turn = threading.Lock()
        self._idle: list[Binding] = []
        self._made = 0

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype."""
        check_inputs(self.component, self.inputs, inputs)
        binding = self._take()
        try:
            return binding(inputs, self._turn)
        finally:
            self._give(binding)

    def close(self) -> None:
        """Free the session and every binding; one at work is freed when its call ends."""
        with self._lock:
            self._session = None
            idle, self._idle = self._idle, []
        for binding in idle:
            binding.close()

    def _take(self) -> Binding:
        with self._lock:
            session = self._session
            if session is None:
                raise Unavailable(f"{self.component}: the engine is closed")
            # The last one given back: a caller alone finds its own inputs on the GPU.
            if self._idle:
                return self._idle.pop()
            number, self._made = self._made, self._made + 1
        specs = self.inputs, self.outputs
        return Binding(self._api, session, number, *specs, self._memory, self._device)

    def _give(self, binding: Binding) -> None:
        with self._lock:
            if self._session is not None:
                self._idle.append(binding)
                return
        binding.close()
