"""The NVIDIA GPU of this machine, or what is missing before there is one.

Unverified: nobody has run this on a GPU; without one it says what it should.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

from latentrt.bundle.errors import EngineError

_DRIVER: Final = "install NVIDIA's driver 580 or newer (CUDA 13), and see that nvidia-smi works"


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not there, and what to do about it."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU: its name, its compute capability ("sm89"), the CUDA that its driver has."""

    name: str
    target: str
    driver: str


def cuda() -> Any:
    """The CUDA runtime of cuda-python, which is linked into it; raises `ImportError`."""
    return importlib.import_module("cuda.bindings.runtime")


def gpu() -> Gpu | Missing:
    """The GPU that engines run on; never raises."""
    try:
        api = cuda()
    except ImportError as error:
        return Missing(f"cuda-python is not installed ({error})", "pip install 'cuda-bindings>=13'")
    _, driver = api.cudaDriverGetVersion()
    if not driver:
        return Missing("no NVIDIA driver was found", _DRIVER)
    code, count = api.cudaGetDeviceCount()
    if code != api.cudaError_t.cudaSuccess or not count:
        return Missing(f"no NVIDIA GPU can be used ({code.name})", _DRIVER)
    code, properties = api.cudaGetDeviceProperties(0)
    if code != api.cudaError_t.cudaSuccess:
        return Missing(f"the NVIDIA GPU does not answer ({code.name})", _DRIVER)
    return Gpu(
        name=properties.name.decode().rstrip("\0"),
        target=f"sm{properties.major}{properties.minor}",
        driver=f"{driver // 1000}.{driver % 1000 // 10}",
    )


def checked(result: tuple[Any, ...]) -> Any:
    """What a call of CUDA gave besides its code; raises `EngineError` for a code of failure."""
    code, *values = result
    if code.value:
        raise EngineError(f"CUDA says: {code.name}")
    return values[0] if values else None
