"""OpenVINO on the CPU, and on Intel's GPUs and NPUs (unverified).

What is stored for the CPU is the compiled model without weights, which are read from the bundle's
own file again. For an SD 1.5 U-Net at 64x64 that is 4 MB, loaded in 3 s instead of compiled in 6.5
s. With weights it would be 3.4 GB, and loading would take 25 s. For other devices the whole
compiled model is stored. OpenVINO's own cache (CACHE_DIR) is not used: 2026.4.1 loads what it
stored for f32 when bf16 is asked for, and the outputs are wrong (models/shapes' U-Net: relative
error 0.9, then NaN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, EngineError, LatentrtError, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines import libraries
from latentrt.engines.cuda.buffers import CALLS, Pool
from latentrt.engines.engine import Arrays, Blueprint, Engine, check_inputs
from latentrt.engines.halved import HalvedEngine, half_of
from latentrt.engines.memory import drop_pages
from latentrt.engines.openvino.group_norm import write_out_group_norms
from latentrt.engines.openvino.infer_request import InferRequest
from latentrt.engines.openvino.model import keep_weights_stored, read
from latentrt.engines.process import Home, keep_in_children
from latentrt.engines.processor import cpu_identity, usable_cores
from latentrt.engines.registry import Progress, Status

_INSTALL: Final = "pip install 'latentrt[openvino]'"
_HINT: Final = "INFERENCE_PRECISION_HINT"
_HINTS: Final = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_BLOB: Final = "model.blob"


class OpenVinoEngine:
    """A compiled model, and infer requests for at most `calls` calls at once."""

    def __init__(self, blueprint: Blueprint, model: Any, *, calls: int = CALLS) -> None:
        self._home = Home("engine")
        keep_in_children(self)
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        make = partial(InferRequest, model, self.inputs, self.outputs)
        self._pool: Pool[InferRequest] = Pool(self.component, make, most=calls)

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate; raises `InputError` for a wrong name, shape or dtype, `EngineError`."""
        self._home.check()
        check_inputs(self.component, self.inputs, inputs)
        try:
            with self._pool.one() as request:
                return request(inputs)
        except LatentrtError:
            raise
        except Exception as error:  # the package raises RuntimeError for everything
            raise EngineError(f"{self.component}: OpenVINO says: {error}") from error

    def close(self) -> None:
        """Free the model and its infer requests; those at work are freed when their calls end."""
        if self._home.here:
            self._pool.close()


@dataclass(frozen=True, slots=True)
class OpenVino:
    """One kind of device that OpenVINO runs on, as a compiler.

    `device` is OpenVINO's name for it; `driver` the property that tells its driver's version;
    `remedy` what to do where no such device is seen. `options` have streams and threads on the CPU,
    streams on a GPU.
    """

    name: str
    device: str
    driver: str = ""
    remedy: str = ""

    @property
    def on_cpu(self) -> bool:
        """Whether this is the CPU, the one device that was tried."""
        return self.device == "CPU"

    def status(self) -> Status:
        """Installed or not, and whether OpenVINO sees such a device; never raises."""
        try:
            openvino = libraries.openvino()
        except ImportError as error:
            problem = f"not installed ({error})"
            return Status(None, (), problem, _INSTALL)
        version = str(openvino.__version__).split("-")[0]
        if self.on_cpu:
            return Status(version, ("CPU",))
        try:
            devices, cause = self._devices(openvino.Core()), ""
        except Exception as error:  # the package raises RuntimeError for everything
            devices, cause = (), f": {_cause(error)}"
        if devices:
            return Status(version, devices)
        problem = f"OpenVINO sees no {self.device} here{cause}"
        return Status(version, (), problem, self.remedy)

    def compile(self, blueprint: Blueprint, options: Any) -> Engine:
        """A model for these sizes and precision; raises `Unavailable` or `BuildFailed`."""
        return self._engine(blueprint, options, self._compiled(blueprint, options, {}))

    def identity(self, options: Any) -> dict[str, str]:
        """OpenVINO's whole version, the device, and its driver; raises `Unavailable`."""
        package = _package(self.name)
        version = {"version": str(package.__version__)}
        if self.on_cpu:
            return version | cpu_identity()
        found = self.status()
        if not found.usable:
            raise Unavailable(f"engine {self.name}: {found.problem}; {found.remedy}")
        driver: object = package.Core().get_property(self.device, self.driver)
        return version | {"device": found.devices[0], "driver": str(driver)}

    def build(
        self,
        blueprint: Blueprint,
        options: Any,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Compile and write the model; raises `Unavailable` or `BuildFailed`."""
        del progress
        compiled = self._compiled(blueprint, options, self._form(blueprint))
        try:
            content: Any = compiled.export_model()
        except Exception as error:
            raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error
        (folder / _BLOB).write_bytes(content if isinstance(content, bytes) else content.getbuffer())

    def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        """The model that `build` wrote; raises `Unavailable` or `BuildFailed`."""
        core: Any = _package(self.name).Core()
        settings = {**self._settings(blueprint, options), **self._form(blueprint)}
        if self.on_cpu and not blueprint.others:
            settings["WEIGHTS_PATH"] = str(blueprint.weights)
        try:
            content = (folder / _BLOB).read_bytes()
            model = core.import_model(content, self.device, settings)
        except Exception as error:
            raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error
        return self._engine(blueprint, options, model)

    def model(self, blueprint: Blueprint) -> Any:
        """What is compiled; raises `Unavailable`, and what the package raises."""
        found = read(_package(self.name), blueprint)
        if self.on_cpu:
            write_out_group_norms(found)
            if blueprint.precision == "fp32":
                keep_weights_stored(found)
        return found

    def half(self, blueprint: Blueprint, options: Any) -> Blueprint | None:
        """The blueprint of half the rows where two halves are evaluated at once, else None.

        That is on a CPU with an even number of threads, unless the streams are chosen. The default
        is one thread for each core.
        """
        if not self.on_cpu or options.streams is not None:
            return None
        if (usable_cores() if options.threads is None else options.threads) % 2:
            return None
        return half_of(blueprint)

    def _engine(self, blueprint: Blueprint, options: Any, model: Any) -> Engine:
        if self.on_cpu:
            drop_pages(blueprint.weights)  # which the kernels have packed
        half = self.half(blueprint, options)
        if half is not None:
            return HalvedEngine(blueprint, OpenVinoEngine(half, model, calls=2 * CALLS))
        streams: int | None = getattr(options, "streams", None)
        return OpenVinoEngine(blueprint, model, calls=max(CALLS, streams or 1))

    def _form(self, blueprint: Blueprint) -> Mapping[str, str]:
        """How the model is stored: on the CPU without its weights, if these are in one file."""
        return {"CACHE_MODE": "OPTIMIZE_SIZE"} if self.on_cpu and not blueprint.others else {}

    def _devices(self, core: Any) -> tuple[str, ...]:
        # Asked of the one plugin: Core.available_devices would load them all.
        ids: list[str] = core.get_property(self.device, "AVAILABLE_DEVICES")
        names = (f"{self.device}.{i}" if i else self.device for i in ids)
        return tuple(str(core.get_property(name, "FULL_DEVICE_NAME")) for name in names)

    def _settings(self, blueprint: Blueprint, options: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {
            _HINT: _HINTS[blueprint.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        threads: int | None = getattr(options, "threads", None)
        streams: int | None = getattr(options, "streams", None)
        if self.half(blueprint, options) is not None:
            settings["NUM_STREAMS"] = 2
        elif streams is not None:
            settings["NUM_STREAMS"] = streams
        if threads is not None:
            # OpenVINO counts the threads of all streams, options those of one call.
            settings["INFERENCE_NUM_THREADS"] = threads * (streams or 1)
        return settings

    def _compiled(self, blueprint: Blueprint, options: Any, more: Mapping[str, str]) -> Any:
        package = _package(self.name)
        settings = {**self._settings(blueprint, options), **more}
        try:
            model = self.model(self.half(blueprint, options) or blueprint)
            return package.Core().compile_model(model, self.device, settings)
        except LatentrtError:
            raise
        except Exception as error:  # the package raises RuntimeError for everything
            raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error


def _package(name: str) -> Any:
    try:
        return libraries.openvino()
    except ImportError as error:
        raise Unavailable(f"engine {name}: not installed; {_INSTALL}") from error


def computes_bf16() -> bool:
    """Whether the CPU computes in bf16 on request. Also true where OpenVINO is not installed."""
    try:
        openvino = libraries.openvino()
    except ImportError:
        return True
    # The precision of a compiled model is what this property then is.
    core: Any = openvino.Core()
    core.set_property("CPU", {_HINT: _HINTS["bf16"]})
    return core.get_property("CPU", _HINT) == openvino.Type.bf16


def _cause(error: Exception) -> str:
    """What went wrong: OpenVINO puts its own source lines and the plugin's path before it."""
    return str(error).strip().splitlines()[-1].rpartition('": ')[2]


CPU: Final = OpenVino(name="openvino", device="CPU")
GPU: Final = OpenVino(
    name="openvino-gpu",
    device="GPU",
    driver="GPU_DRIVER_VERSION",
    remedy="install the driver of Intel's GPU (OpenCL; on Debian and Ubuntu intel-opencl-icd)",
)
NPU: Final = OpenVino(
    name="openvino-npu",
    device="NPU",
    driver="NPU_DRIVER_VERSION",
    remedy="install the driver of Intel's NPU (github.com/intel/linux-npu-driver)",
)
