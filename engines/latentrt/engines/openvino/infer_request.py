"""OpenVINO's infer request for one call, whose tensors stay the same.

Arrays are copied into and out of its tensors. That takes 0.5 % of a call of models/shapes' U-Net;
giving a request other memory at every call takes 4 %. The arrays over the tensors are made once,
because a call leaves caches cold, and work after it takes ten times as long.
"""

# The package's stubs leave most of its API unknown.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays


class InferRequest:
    """One request of a compiled model, for one call at a time."""

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


def _arrays(request: Any, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    return {spec.name: request.get_tensor(spec.name).data for spec in specs}
