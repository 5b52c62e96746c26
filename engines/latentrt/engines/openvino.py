"""OpenVINO on the CPU.

The symbolic graph is reshaped to fixed sizes before it is compiled. OpenVINO reads external weights
only from below the graph's own folder, so a graph with the weights of another bundle is linked
together with them in a temporary folder first.
"""

# The package's stubs leave most of its API unknown.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

import os
import queue
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays, Blueprint, Options, Status, check_inputs

NAME: Final = "openvino"
PRECISIONS: Final = ("fp32", "bf16")
_REMEDY: Final = "pip install 'latentrt[openvino]'"
_HINTS: Final = {"fp32": "f32", "bf16": "bf16"}


def status() -> Status:
    """Installed or not; of its devices only the CPU is used."""
    try:
        import openvino
    except ImportError as error:
        return Status(NAME, None, problem=f"not installed ({error})", remedy=_REMEDY)
    return Status(NAME, openvino.__version__.split("-")[0], devices=("CPU",))


class OpenVinoEngine:
    """A compiled model with a pool of infer requests, one a concurrent call."""

    def __init__(self, blueprint: Blueprint, model: Any) -> None:
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        self._model: Any = model
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype."""
        check_inputs(self.component, self.inputs, inputs)
        model = self._model
        if model is None:
            raise Unavailable(f"{self.component}: the engine is closed")
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = model.create_infer_request()
        try:
            results = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
            return {spec.name: np.array(results[spec.name]) for spec in self.outputs}
        finally:
            self._idle.put(request)

    def close(self) -> None:
        """Free the model and its infer requests."""
        self._model = None
        while not self._idle.empty():
            self._idle.get_nowait()


def compile(blueprint: Blueprint, options: Options) -> OpenVinoEngine:
    """A model for these sizes and precision; raises `Unavailable` or `BuildFailed`."""
    try:
        import openvino
    except ImportError as error:
        raise Unavailable(f"engine {NAME}: not installed; {_REMEDY}") from error
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
        "PERFORMANCE_HINT": "LATENCY",
    }
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    with tempfile.TemporaryDirectory(prefix="latentrt-") as scratch:
        try:
            core: Any = openvino.Core()
            model = core.read_model(_beside_weights(blueprint, Path(scratch)))
            model.reshape({s.name: list(s.dims) for s in blueprint.fixed_inputs})
            compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # the package raises RuntimeError for everything
            raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error
    return OpenVinoEngine(blueprint, compiled)


def _beside_weights(blueprint: Blueprint, scratch: Path) -> Path:
    root = blueprint.weights.parents[1]
    if blueprint.graph.parent == root:
        return blueprint.graph
    (scratch / blueprint.weights.parent.name).mkdir()
    linked = scratch / blueprint.weights.parent.name / blueprint.weights.name
    try:
        os.link(blueprint.weights, linked)
    except OSError:
        shutil.copyfile(blueprint.weights, linked)
    return Path(shutil.copyfile(blueprint.graph, scratch / blueprint.graph.name))
