"""OpenVINO on the CPU, and on Intel's GPUs and NPUs, where nobody has run it yet.

What is stored for the CPU is the compiled model without weights, which are read from the bundle's
own file again. For an SD 1.5 U-Net at 64x64 that is 4 MB, loaded in 3 s instead of compiled in
6.5 s (fp32 10.5 of 21 s where the weights came from the disk); with weights it is 3.4 GB, and
loading takes 25 s. For other devices the whole compiled model is stored. OpenVINO's own cache
(CACHE_DIR) is not used: 2026.4.1 loads what it stored for f32 when bf16 is asked for, and the
outputs are wrong (models/shapes' U-Net: relative error 0.9, then NaN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, EngineError, LatentrtError, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines import libraries
from latentrt.engines.cuda.buffers import CALLS, Pool
from latentrt.engines.engine import Arrays, Blueprint, Options, check_inputs
from latentrt.engines.half_batch import half_of
from latentrt.engines.openvino.group_norm import write_out_group_norms
from latentrt.engines.openvino.model import as_computed, read
from latentrt.engines.openvino.requests import Request, RequestMaker
from latentrt.engines.process import Home, keep_in_children
from latentrt.engines.registry import Progress, Status, cpu_identity, usable_cores

_INSTALL: Final = "pip install 'latentrt[openvino]'"
_HINT: Final = "INFERENCE_PRECISION_HINT"
_HINTS: Final = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_BLOB: Final = "model.blob"
_DTYPES: Final = ("float32", "float16", "bfloat16")


class OpenVinoEngine:
    """A compiled model, of all rows or of half, and infer requests for `calls` of them at once."""

    def __init__(
        self, blueprint: Blueprint, model: Any, *, halved: bool = False, calls: int = CALLS
    ) -> None:
        self._home = Home("engine")
        keep_in_children(self)
        self.component = blueprint.component
        self.inputs: tuple[TensorSpec, ...] = blueprint.fixed_inputs
        self.outputs: tuple[TensorSpec, ...] = blueprint.fixed_outputs
        half = half_of(blueprint) if halved else None
        arrays = half or blueprint
        make = RequestMaker(
            model, arrays.fixed_inputs, arrays.fixed_outputs, halved=half is not None
        )
        self._pool: Pool[Request] = Pool(self.component, make, most=calls)

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
    """One kind of device that OpenVINO runs on, as a backend.

    `device` is OpenVINO's name for it; `known` what such devices compute in; `driver` the property
    that tells its driver's version; `remedy` what to do where no such device is seen.
    """

    name: str
    device: str
    known: Mapping[str, tuple[str, ...]]
    OPTIONS: frozenset[str]
    driver: str = ""
    remedy: str = ""
    TIMED: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether this is the CPU, the one device that was tried."""
        return self.device == "CPU"

    @property
    def PRECISIONS(self) -> Mapping[str, tuple[str, ...]]:  # noqa: N802
        """What it computes in here, by the dtype of a graph.

        That is without bf16 on a CPU that has none: OpenVINO would take fp32 and say nothing.
        """
        if not self.on_cpu or _heeds_bf16():
            return self.known
        return {
            dtype: tuple(p for p in known if p != "bf16") for dtype, known in self.known.items()
        }

    def status(self) -> Status:
        """Installed or not, and whether OpenVINO sees such a device; never raises."""
        untried = not self.on_cpu
        try:
            openvino = libraries.openvino()
        except ImportError as error:
            problem = f"not installed ({error})"
            return Status(self.name, None, (), problem, _INSTALL, untried)
        version = str(openvino.__version__).split("-")[0]
        if self.on_cpu:
            return Status(self.name, version, ("CPU",))
        try:
            devices, cause = self._devices(openvino.Core()), ""
        except Exception as error:  # the package raises RuntimeError for everything
            devices, cause = (), f": {_cause(error)}"
        if devices:
            return Status(self.name, version, devices, unverified=untried)
        problem = f"OpenVINO sees no {self.device} here{cause}"
        return Status(self.name, version, (), problem, self.remedy, untried)

    def compile(self, blueprint: Blueprint, options: Options) -> OpenVinoEngine:
        """A model for these sizes and precision; raises `Unavailable` or `BuildFailed`."""
        model = self._compiled(blueprint, options, {})
        return self._engine(blueprint, options, model)

    def identity(self, options: Options) -> dict[str, str]:
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
        options: Options,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Compile and write the model; raises `Unavailable` or `BuildFailed`."""
        del progress
        compiled = self._compiled(blueprint, options, self._form)
        try:
            content: Any = compiled.export_model()
        except Exception as error:
            raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error
        (folder / _BLOB).write_bytes(content if isinstance(content, bytes) else content.getbuffer())

    def load(self, blueprint: Blueprint, options: Options, folder: Path) -> OpenVinoEngine:
        """The model that `build` wrote; raises `Unavailable` or `BuildFailed`."""
        core: Any = _package(self.name).Core()
        settings = {**self._settings(blueprint, options), **self._form}
        if self.on_cpu:
            settings["WEIGHTS_PATH"] = str(blueprint.weights)
        try:
            content = (folder / _BLOB).read_bytes()
            model = core.import_model(content, self.device, settings)
        except Exception as error:
            raise BuildFailed(f"{blueprint.component}: OpenVINO says: {error}") from error
        return self._engine(blueprint, options, model)

    def model(self, blueprint: Blueprint, precision: str) -> Any:
        """What is compiled; raises `Unavailable`, and what the package raises."""
        found = read(_package(self.name), blueprint, precision)
        if self.on_cpu:
            write_out_group_norms(found)
        return found

    def half(self, blueprint: Blueprint, options: Options) -> Blueprint | None:
        """The blueprint of half the rows where two halves are evaluated at once, else None.

        That is on a CPU with an even number of threads, unless the streams are chosen. By itself
        OpenVINO has a thread for each core.
        """
        threads = usable_cores() if options.threads is None else options.threads
        if not self.on_cpu or options.streams is not None or threads % 2:
            return None
        return half_of(blueprint)

    def _engine(self, blueprint: Blueprint, options: Options, model: Any) -> OpenVinoEngine:
        halved = self.half(blueprint, options) is not None
        wide = as_computed(blueprint, options.precision)
        calls = max(CALLS, options.streams or 1)
        return OpenVinoEngine(wide, model, halved=halved, calls=calls)

    @property
    def _form(self) -> Mapping[str, str]:
        """How the model is stored: on the CPU without its weights."""
        return {"CACHE_MODE": "OPTIMIZE_SIZE"} if self.on_cpu else {}

    def _devices(self, core: Any) -> tuple[str, ...]:
        # Asked of the one plugin: Core.available_devices would load them all.
        ids: list[str] = core.get_property(self.device, "AVAILABLE_DEVICES")
        names = (f"{self.device}.{i}" if i else self.device for i in ids)
        return tuple(str(core.get_property(name, "FULL_DEVICE_NAME")) for name in names)

    def _settings(self, blueprint: Blueprint, options: Options) -> dict[str, Any]:
        settings: dict[str, Any] = {
            _HINT: _HINTS[options.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.half(blueprint, options) is not None:
            settings["NUM_STREAMS"] = 2
        elif options.streams is not None:
            settings["NUM_STREAMS"] = options.streams
        if options.threads is not None:
            # OpenVINO counts the threads of all streams, options those of one call.
            settings["INFERENCE_NUM_THREADS"] = options.threads * (options.streams or 1)
        return settings

    def _compiled(self, blueprint: Blueprint, options: Options, more: Mapping[str, str]) -> Any:
        package = _package(self.name)
        settings = {**self._settings(blueprint, options), **more}
        try:
            model = self.model(self.half(blueprint, options) or blueprint, options.precision)
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


def _heeds_bf16() -> bool:
    """Whether the CPU computes in bf16 where that is asked for; so too where nobody can tell."""
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


CPU: Final = OpenVino(
    name="openvino",
    device="CPU",
    # However weights are stored, computing in fp32 adds no error of its own.
    known=dict.fromkeys(_DTYPES, ("fp32", "bf16")),
    OPTIONS=frozenset({"threads", "streams"}),
)
GPU: Final = OpenVino(
    name="openvino-gpu",
    device="GPU",
    known={
        "float32": ("fp32", "fp16"),
        "float16": ("fp16", "fp32"),
        "bfloat16": ("fp32", "fp16"),
    },
    OPTIONS=frozenset({"streams"}),
    driver="GPU_DRIVER_VERSION",
    remedy="install the driver of Intel's GPU (OpenCL; on Debian and Ubuntu intel-opencl-icd)",
)
NPU: Final = OpenVino(
    name="openvino-npu",
    device="NPU",
    known=dict.fromkeys(_DTYPES, ("fp16",)),
    OPTIONS=frozenset(),
    driver="NPU_DRIVER_VERSION",
    remedy="install the driver of Intel's NPU (github.com/intel/linux-npu-driver)",
)
