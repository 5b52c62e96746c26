"""An ONNX Runtime session on a device, its inputs and outputs bound to memory that stays in place.

Unverified on a GPU; the tests bind a session of the CPU to the host's own memory.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import EngineError
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda.buffers import Buffers, Pool, close_with
from latentrt.engines.cuda.memory import DeviceMemory
from latentrt.engines.engine import Arrays, Blueprint, check_inputs
from latentrt.engines.process import Home, keep_in_children


class Binding:
    """Buffers for one call at a time, bound to a session; `number` tells its CUDA graph apart."""

    def __init__(
        self,
        api: Any,
        session: Any,
        number: int,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        memory: DeviceMemory,
        device: str,
    ) -> None:
        self._session: Any = session
        self._buffers = Buffers(inputs, outputs, memory)
        self._bound: Any = session.io_binding()
        self._options: Any = api.RunOptions()
        # A CUDA graph replays the addresses that it was captured with; the second is what the
        # plugin provider calls the first.
        for key in ("gpu_graph_id", "cuda_graph_annotation_id"):
            self._options.add_run_config_entry(key, str(number))
        try:
            for specs, buffers, bind in (
                (inputs, self._buffers.inputs, self._bound.bind_input),
                (outputs, self._buffers.outputs, self._bound.bind_output),
            ):
                for spec in specs:
                    dtype, dims = np.dtype(spec.dtype).type, list(spec.shape({}))
                    bind(spec.name, device, 0, dtype, dims, buffers[spec.name].address)
        except BaseException:
            self.close()
            raise

    def __call__(self, inputs: Arrays, turn: threading.Lock) -> dict[str, NDArray[Any]]:
        """Evaluate checked inputs, running the session in `turn`; what is returned are copies."""

        def work() -> None:
            # ONNX Runtime has a stream of its own, and returns when that has done its work.
            self._buffers.stream.synchronize()
            with turn:
                self._run()
            self._buffers.download()

        return self._buffers.call(inputs, work)

    def close(self) -> None:
        """Free the buffers and the stream."""
        self._buffers.settle()
        self._bound = self._session = None
        self._buffers.close()

    def _run(self) -> None:
        try:
            self._session.run_with_iobinding(self._bound, self._options)
        except Exception as error:  # the package raises bare classes of its own, one a kind
            raise EngineError(f"ONNX Runtime says: {error}") from error


class OnnxRuntimeGpuEngine:
    """A session with a binding for each of a few calls at once.

    `device` is ONNX Runtime's name for where `memory` is.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        api: Any,
        session: Any,
        memory: DeviceMemory,
        device: str = "cuda",
    ) -> None:
        self._home = Home("engine")
        keep_in_children(self)
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        # Two threads must not run a session with CUDA graphs at once. The GPU works on one call at
        # a time in any case.
        self._turn = threading.Lock()
        numbers = itertools.count()
        inputs, outputs = self.inputs, self.outputs
        self._pool = Pool(
            self.component,
            lambda: Binding(api, session, next(numbers), inputs, outputs, memory, device),
        )
        close_with(self, self._pool)

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype."""
        self._home.check()
        check_inputs(self.component, self.inputs, inputs)
        with self._pool.one() as binding:
            return binding(inputs, self._turn)

    def close(self) -> None:
        """Free the session and every binding; one at work is freed when its call ends."""
        if self._home.here:
            self._pool.close()
