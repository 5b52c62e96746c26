"""OpenVINO's infer requests for one call, whose tensors stay the same.

Copied into and out of: to lend a request other memory at every call makes the call 4 % longer for
models/shapes' U-Net, to copy 0.5 %. The arrays over the tensors are made once: a call leaves caches
cold, and what is done after it costs ten times what it costs by itself.
"""

# The package's stubs leave most of its API unknown.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays


class WholeRequest:
    """One infer request for all rows."""

    def __init__(
        self, model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        self._request: Any = model.create_infer_request()
        self._inputs = _arrays(self._request, inputs)
        self._outputs = _arrays(self._request, outputs)

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises what the package raises."""
        for name, array in self._inputs.items():
            array[...] = inputs[name]
        self._request.infer(share_outputs=True)
        return {name: array.copy() for name, array in self._outputs.items()}

    def close(self) -> None:
        """Let go of the model."""
        self._inputs, self._outputs, self._request = {}, {}, None


class HalvedRequest:
    """Two infer requests at once, of the first and the second half of the rows."""

    def __init__(
        self, model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        self._requests: tuple[Any, ...] = tuple(model.create_infer_request() for _ in range(2))
        self._inputs = [_arrays(request, inputs) for request in self._requests]
        self._outputs = [_arrays(request, outputs) for request in self._requests]

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises what the package raises, when neither half is at work any more."""
        first, second = self._requests
        try:
            for request, tensors, half in zip(self._requests, self._inputs, (0, 1), strict=True):
                for name, array in tensors.items():
                    rows = len(array)
                    array[...] = inputs[name][half * rows : (half + 1) * rows]
                request.start_async(share_inputs=True)
        finally:
            try:
                first.wait()
            finally:
                second.wait()
        ahead, behind = self._outputs
        return {name: np.concatenate((array, behind[name])) for name, array in ahead.items()}

    def close(self) -> None:
        """Let go of the model."""
        self._inputs, self._outputs, self._requests = [], [], ()


Request = WholeRequest | HalvedRequest


class RequestMaker:
    """Makes a compiled model's requests: for all rows, or for rows in two halves.

    `inputs` and `outputs` are those of the model.
    """

    def __init__(
        self,
        model: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        halved: bool,
    ) -> None:
        self.model: Any = model
        self._inputs = inputs
        self._outputs = outputs
        self._kind = HalvedRequest if halved else WholeRequest

    def __call__(self) -> Request:
        """One more request; raises what the package raises."""
        return self._kind(self.model, self._inputs, self._outputs)


def _arrays(request: Any, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    return {spec.name: request.get_tensor(spec.name).data for spec in specs}
