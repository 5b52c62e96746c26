"""ONNX Runtime's CUDA provider.

It has no kernel for GroupNormalization, so graphs are rewritten for it. Unverified: never run
on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from latentrt.engines.cuda.device import Missing
from latentrt.engines.onnxruntime.gpu import GpuProvider, gpu_package
from latentrt.engines.onnxruntime.session import Providers, norms_written_out

NAME: Final = "onnxruntime-cuda"
_PROVIDER: Final = "CUDAExecutionProvider"
_REMEDY: Final = "pip install 'latentrt[onnxruntime-gpu]'"
_OPTIONS: Final = {
    "device_id": "0",
    "enable_cuda_graph": "1",
    # TF32 keeps 10 of the 23 bits of a float32's fraction; who asks for fp32 wants all of them.
    "use_tf32": "0",
}


def installed() -> Mapping[str, str] | Missing:
    """ONNX Runtime's version, if it is the package that has the provider."""
    return gpu_package("libonnxruntime_providers_cuda", "CUDA provider", _REMEDY)


def attach(api: Any, chosen: Any, precision: str, options: Any) -> Providers:
    """The provider, once the libraries that it is linked against are loaded."""
    api.preload_dlls(directory="")
    return [(_PROVIDER, _OPTIONS)]


PROVIDER: Final = GpuProvider(
    name=NAME,
    provider=_PROVIDER,
    installed=installed,
    attach=attach,
    remedy=_REMEDY,
    prepare=norms_written_out,
)
