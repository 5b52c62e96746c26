"""OpenVINO on the CPU.

The symbolic graph is reshaped to fixed sizes before it is compiled. OpenVINO reads external weights
only from below the graph's own folder, so a graph with the weights of another bundle is linked
together with them in a temporary folder first.

What is stored is the compiled model without weights, which are read from the bundle's own file
again. For an SD 1.5 U-Net at 64x64 that is 4 MB, loaded in 3 s instead of compiled in 6.5 s (fp32
10.5 of 21 s where the weights came from the disk); with weights it is 3.4 GB, and loading takes
25 s. OpenVINO's own cache (CACHE_DIR) is not used: 2026.4.1 loads what it stored for f32 when bf16
is asked for, and the outputs are wrong (models/shapes' U-Net: relative error 0.9, then NaN).
"""

# The package's stubs leave most of its API unknown.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

import os
import queue
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import (
    Arrays,
    Blueprint,
    Options,
    Status,
    check_inputs,
    cpu_identity,
)

NAME: Final = "openvino"
PRECISIONS: Final = ("fp32", "bf16")
_REMEDY: Final = "pip install 'latentrt[openvino]'"
_HINTS: Final = {"fp32": "f32", "bf16": "bf16"}
_BLOB: Final = "model.blob"
_WEIGHTLESS: Final = {"CACHE_MODE": "OPTIMIZE_SIZE"}


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
    return OpenVinoEngine(blueprint, _compiled(blueprint, options, {}))


def identity(options: Options) -> dict[str, str]:
    """OpenVINO's whole version, and the CPU; raises `Unavailable`."""
    return {"version": str(_package().__version__), **cpu_identity()}


def build(blueprint: Blueprint, options: Options, folder: Path) -> None:
    """Compile and write the model without its weights; raises `Unavailable` or `BuildFailed`."""
    compiled = _compiled(blueprint, options, _WEIGHTLESS)
    try:
        content: Any = compiled.export_model()
    except Exception as error:
        raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error
    (folder / _BLOB).write_bytes(content if isinstance(content, bytes) else content.getbuffer())


def load(blueprint: Blueprint, options: Options, folder: Path) -> OpenVinoEngine:
    """The model that `build` wrote; raises `Unavailable` or `BuildFailed`."""
    core: Any = _package().Core()
    settings = {**_settings(options), **_WEIGHTLESS, "WEIGHTS_PATH": str(blueprint.weights)}
    try:
        model = core.import_model((folder / _BLOB).read_bytes(), "CPU", settings)
    except Exception as error:
        raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error
    return OpenVinoEngine(blueprint, model)


def _package() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise Unavailable(f"engine {NAME}: not installed; {_REMEDY}") from error
    return openvino


def _settings(options: Options) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
        "PERFORMANCE_HINT": "LATENCY",
    }
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    return settings


def _compiled(blueprint: Blueprint, options: Options, more: Mapping[str, str]) -> Any:
    openvino = _package()
    with tempfile.TemporaryDirectory(prefix="latentrt-") as scratch:
        try:
            core: Any = openvino.Core()
            model = core.read_model(_beside_weights(blueprint, Path(scratch)))
            model.reshape({s.name: list(s.dims) for s in blueprint.fixed_inputs})
            return core.compile_model(model, "CPU", {**_settings(options), **more})
        except Exception as error:  # the package raises RuntimeError for everything
            raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error


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
