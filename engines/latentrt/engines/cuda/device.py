"""The NVIDIA GPU of this machine, or what is missing before there is one.

Unverified: never run on a GPU. Tests cover machines without one.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import EngineError

_DRIVER: Final = "install NVIDIA's driver 580 or newer (CUDA 13), and see that nvidia-smi works"
_SAYS: Final = Path("/proc/driver/nvidia/version")
"""Where Linux has the version of the driver, where it has the driver."""
_BUS_ID: Final = 32
"""Bytes for a bus id, which has 13 with the zero behind it."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing part, and how to install it."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU: its name, its compute capability ("sm89"), the CUDA that its driver has.

    `driver` is the driver's own version, such as "580.95.05": several have one CUDA. Empty where
    it is unknown.
    """

    name: str
    target: str
    cuda: str
    driver: str = ""

    @property
    def identity(self) -> dict[str, str]:
        """What an entry depends on that fits this GPU under this driver alone."""
        driver = self.driver or "unknown"
        return {"device": self.name, "target": self.target, "cuda": self.cuda, "driver": driver}


def cuda() -> Any:
    """The CUDA runtime of cuda-python, which is linked into it; raises `ImportError`."""
    return importlib.import_module("cuda.bindings.runtime")


def gpu() -> Gpu | Missing:
    """The GPU that engines run on; never raises."""
    try:
        api = cuda()
    except ImportError as error:
        return Missing(f"cuda-python is not installed ({error})", "pip install 'cuda-bindings>=13'")
    _, level = api.cudaDriverGetVersion()
    if not level:
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
        cuda=f"{level // 1000}.{level % 1000 // 10}",
        driver=driver_version(),
    )


def bus_id() -> str | None:
    """The PCI bus id of the GPU that engines run on, such as "0000:01:00.0"; never raises.

    None where it is unknown. CUDA counts only the GPUs that it may see, in an order of its own.
    """
    if isinstance(gpu(), Missing):
        return None
    code, found = cuda().cudaDeviceGetPCIBusId(_BUS_ID, 0)
    return None if code.value else found.partition(b"\0")[0].decode()


def driver_version() -> str:
    """The version of NVIDIA's driver as it says itself; nothing where it does not."""
    with contextlib.suppress(OSError):
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _SAYS.read_text("utf-8", errors="replace"))
        if found is not None:
            return found[1]
    try:
        # Windows and its Linux have no such file; the package is there with `latentrt[bench]`.
        api: Any = importlib.import_module("pynvml")
        api.nvmlInit()
        try:
            version: str | bytes = api.nvmlSystemGetDriverVersion()
        finally:
            api.nvmlShutdown()
    except Exception:  # ImportError, or NVML's own error where there is no driver
        return ""
    return version.decode() if isinstance(version, bytes) else version


def checked(result: tuple[Any, ...]) -> Any:
    """What a call of CUDA gave besides its code; raises `EngineError` for a code of failure."""
    code, *values = result
    if code.value:
        raise EngineError(f"CUDA says: {code.name}")
    return values[0] if values else None
