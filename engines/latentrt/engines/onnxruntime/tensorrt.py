"""ONNX Runtime's TensorRT providers: the built-in one, and the plugin for GeForce RTX GPUs.

Neither has an option against TF32, which keeps 10 of the 23 bits of a float32's fraction. Where
they use it, their fp32 engines are refused. NVIDIA_TF32_OVERRIDE=0 switches it off; it is part of
the key. Unverified: never run on a GPU.
"""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import threading
from collections.abc import Mapping
from typing import Any, Final

from latentrt.bundle.errors import BuildFailed
from latentrt.engines.cuda.device import Gpu, Missing
from latentrt.engines.onnxruntime.gpu import GpuProvider, any_package, gpu_package, version_of
from latentrt.engines.onnxruntime.options import OnnxRuntimeTensorRtOptions
from latentrt.engines.onnxruntime.session import Providers

_NAME: Final = "onnxruntime-tensorrt"
_PROVIDER: Final = "TensorrtExecutionProvider"
_REMEDY: Final = "pip install 'latentrt[onnxruntime-tensorrt]'"
_RTX_NAME: Final = "onnxruntime-tensorrt-rtx"
_RTX_PROVIDER: Final = "NvTensorRTRTXExecutionProvider"
_RTX_REMEDY: Final = "pip install 'latentrt[onnxruntime-tensorrt-rtx]'"
_RTX_MODULE: Final = "onnxruntime_ep_nv_tensorrt_rtx"
_RTX_DISTRIBUTION: Final = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
# What the plugin takes, says a header that comes with it: these, and everything from sm120 on.
_RTX_TARGETS: Final = ("sm86", "sm89")
_RTX_FIRST_OF_ALL: Final = 120
# What is registered is the process's; of two threads at once the second would be refused.
_REGISTERING: Final = threading.Lock()


def installed() -> Mapping[str, str] | Missing:
    """Versions of ONNX Runtime and TensorRT, if the package has the provider."""
    found = gpu_package("libonnxruntime_providers_tensorrt", "TensorRT provider", _REMEDY)
    if isinstance(found, Missing):
        return found
    if importlib.util.find_spec("tensorrt") is not None:
        return {**found, "tensorrt": version_of("tensorrt", "tensorrt-cu13")}
    library = ctypes.util.find_library("nvinfer")
    if library is None:
        return Missing("TensorRT's library (libnvinfer) is not installed", _REMEDY)
    return {**found, "tensorrt": library}


def attach(api: Any, chosen: Any, precision: str, options: OnnxRuntimeTensorRtOptions) -> Providers:
    """The provider, once the libraries that it is linked against are loaded."""
    api.preload_dlls(directory="")
    if importlib.util.find_spec("tensorrt") is not None:
        importlib.import_module("tensorrt")  # loads libnvinfer, which no search path has
    # A network of TensorRT 10 computes in float32 unless these allow another type. One of TensorRT
    # 11 takes the graph's types.
    settings = {
        "device_id": "0",
        "trt_fp16_enable": str(int(precision == "fp16")),
        "trt_bf16_enable": str(int(precision == "bf16")),
        "trt_builder_optimization_level": str(options.level),
        "trt_cuda_graph_enable": "1",
        "trt_engine_cache_enable": "0",
        "trt_timing_cache_enable": "0",
    }
    return [(_PROVIDER, settings)]


def rtx_installed() -> Mapping[str, str] | Missing:
    """Versions of ONNX Runtime and the plugin."""
    found = any_package(_RTX_REMEDY)
    if isinstance(found, Missing):
        return found
    if importlib.util.find_spec(_RTX_MODULE) is None:
        return Missing("the TensorRT for RTX plugin of ONNX Runtime is not installed", _RTX_REMEDY)
    return {**found, "plugin": version_of(_RTX_DISTRIBUTION)}


def rtx_unfit(device: Gpu) -> Missing | None:
    """Why the plugin does not run on a GPU, if so."""
    if device.target in _RTX_TARGETS or int(device.target[2:]) >= _RTX_FIRST_OF_ALL:
        return None
    problem = f"the TensorRT for RTX plugin is not for {device.name} ({device.target})"
    return Missing(problem, _REMEDY)


def rtx_attach(api: Any, chosen: Any, precision: str, options: Any) -> None:
    """Register the plugin, once in a process, and add its first device to session options.

    Raises `BuildFailed` with what ONNX Runtime says when it does not load, or finds no device.
    """
    with _REGISTERING:
        if not _devices(api):
            _register(api)
    devices = _devices(api)
    if not devices:
        raise BuildFailed(f"{_RTX_PROVIDER} finds no device that it is for")
    chosen.add_provider_for_devices(devices[:1], {"enable_cuda_graph": "1"})


def _register(api: Any) -> None:
    try:
        # Its import loads the libraries that it is linked against.
        plugin: Any = importlib.import_module(_RTX_MODULE)
        api.register_execution_provider_library(_RTX_PROVIDER, plugin.get_library_path())
    except Exception as error:  # the package raises bare classes of its own, one a kind
        raise BuildFailed(f"ONNX Runtime does not load {_RTX_PROVIDER}: {error}") from error


def _devices(api: Any) -> list[Any]:
    return [d for d in api.get_ep_devices() if d.ep_name == _RTX_PROVIDER]


PROVIDER: Final = GpuProvider(
    name=_NAME,
    provider=_PROVIDER,
    installed=installed,
    attach=attach,
    remedy=_REMEDY,
)
RTX: Final = GpuProvider(
    name=_RTX_NAME,
    provider=_RTX_PROVIDER,
    installed=rtx_installed,
    attach=rtx_attach,
    remedy=_RTX_REMEDY,
    unfit=rtx_unfit,
)
