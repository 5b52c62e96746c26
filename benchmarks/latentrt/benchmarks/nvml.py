"""What an NVIDIA GPU says of itself through NVML: unverified, since none was at hand."""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GpuState:
    """The first GPU now.

    Clocks are in MHz, power in watts, memory in bytes: all that is in use, and this process's
    part. `throttle` are the reasons, in NVML's words, for which it runs slower than it could.
    """

    name: str
    driver: str
    sm_clock: int
    memory_clock: int
    power: float
    temperature: int
    memory_used: int
    memory_own: int
    throttle: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def gpu_state() -> GpuState | None:
    """The first GPU's state; None without NVML, its Python package or a GPU."""
    try:
        api: Any = importlib.import_module("pynvml")
        api.nvmlInit()
    except Exception:  # ImportError, or NVML's own error where there is no driver
        return None
    try:
        return _state(api, api.nvmlDeviceGetHandleByIndex(0))
    except api.NVMLError:
        return None
    finally:
        api.nvmlShutdown()


def _state(api: Any, handle: Any) -> GpuState:
    processes = api.nvmlDeviceGetComputeRunningProcesses(handle)
    own = sum(p.usedGpuMemory or 0 for p in processes if p.pid == os.getpid())
    return GpuState(
        name=_text(api.nvmlDeviceGetName(handle)),
        driver=_text(api.nvmlSystemGetDriverVersion()),
        sm_clock=api.nvmlDeviceGetClockInfo(handle, api.NVML_CLOCK_SM),
        memory_clock=api.nvmlDeviceGetClockInfo(handle, api.NVML_CLOCK_MEM),
        power=api.nvmlDeviceGetPowerUsage(handle) / 1000,
        temperature=api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU),
        memory_used=api.nvmlDeviceGetMemoryInfo(handle).used,
        memory_own=own,
        throttle=_reasons(api, handle),
    )


def _reasons(api: Any, handle: Any) -> tuple[str, ...]:
    active = 0
    with contextlib.suppress(api.NVMLError):  # some GPUs do not say
        active = api.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    prefix = "nvmlClocksThrottleReason"
    found = {n.removeprefix(prefix): getattr(api, n) for n in dir(api) if n.startswith(prefix)}
    return tuple(
        sorted(
            name
            for name, bit in found.items()
            if isinstance(bit, int) and bit and bit.bit_count() == 1 and active & bit
        )
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
