"""The state of an NVIDIA GPU while it works, as NVML reports it. Unverified: never run on a GPU."""

from __future__ import annotations

import importlib
import os
import statistics
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from latentrt.engines.cuda.device import bus_id

_INTERVAL: Final = 0.2
_PREFIX: Final = "nvmlClocksThrottleReason"
_IDLE: Final = "GpuIdle"  # no fault: there was nothing to do, as between two calls
_MEDIANS: Final = ("sm_clock", "memory_clock", "power")
_MAXIMA: Final = ("temperature", "memory_used", "memory_own")


@dataclass(frozen=True, slots=True)
class GpuState:
    """A GPU over some time; a field that it does not report is None.

    Of `readings`, clocks (MHz) and power (watts) are medians, temperature (degrees Celsius) and
    memory (bytes: all in use, and this process's part) maxima. `throttle` are NVML's reasons for a
    lower clock, without idleness.
    """

    name: str | None
    driver: str | None
    sm_clock: float | None
    memory_clock: float | None
    power: float | None
    temperature: int | None
    memory_used: int | None
    memory_own: int | None
    throttle: tuple[str, ...] | None
    readings: int


class GpuWatch:
    """Reads the GPU that engines run on inside a `with` block, in a thread of its own.

    Without NVML, its Python package or a GPU nothing is read, and `state` is None.
    """

    def __init__(self, interval: float = _INTERVAL) -> None:
        self._interval = interval
        self._readings: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._api: Any = None

    def __enter__(self) -> Self:
        try:
            api: Any = importlib.import_module("pynvml")
            api.nvmlInit()
        except Exception:  # ImportError, or NVML's own error where there is no driver
            return self
        self._api = api
        handle: Any = _handle(api)
        if handle is not None:
            self._thread = threading.Thread(target=self._watch, args=(handle,), name="nvml")
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._api is not None:
            self._api.nvmlShutdown()

    @property
    def state(self) -> GpuState | None:
        """The readings of the block, once it is over."""
        return _summary(self._readings) if self._readings else None

    def _watch(self, handle: Any) -> None:
        while True:
            self._readings.append(_read(self._api, handle))
            if self._over.wait(self._interval):
                return


def _handle(api: Any) -> Any:
    """Of the GPU that CUDA uses, or else the first in NVML's order; None where there is neither."""
    bus = bus_id()
    found = None if bus is None else _asked(api, lambda: api.nvmlDeviceGetHandleByPciBusId(bus))
    return _asked(api, lambda: api.nvmlDeviceGetHandleByIndex(0)) if found is None else found


def _read(api: Any, handle: Any) -> dict[str, Any]:
    """Ask for each field alone: a GPU, a driver or a container may refuse any of them."""
    questions: dict[str, Callable[[], Any]] = {
        "name": lambda: _text(api.nvmlDeviceGetName(handle)),
        "driver": lambda: _text(api.nvmlSystemGetDriverVersion()),
        "sm_clock": lambda: api.nvmlDeviceGetClockInfo(handle, api.NVML_CLOCK_SM),
        "memory_clock": lambda: api.nvmlDeviceGetClockInfo(handle, api.NVML_CLOCK_MEM),
        "power": lambda: api.nvmlDeviceGetPowerUsage(handle) / 1000,
        "temperature": lambda: api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU),
        "memory_used": lambda: api.nvmlDeviceGetMemoryInfo(handle).used,
        "memory_own": lambda: _own(api.nvmlDeviceGetComputeRunningProcesses(handle)),
        "throttle": lambda: _reasons(api, api.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
    }
    return {field: _asked(api, question) for field, question in questions.items()}


def _asked(api: Any, question: Callable[[], Any]) -> Any:
    """The answer; None where NVML refuses it, or the package is too old for the question."""
    try:
        return question()
    except (api.NVMLError, AttributeError):
        return None


def _summary(readings: list[dict[str, Any]]) -> GpuState:
    known: Mapping[str, list[Any]] = {
        field: [each[field] for each in readings if each[field] is not None]
        for field in readings[0]
    }
    reasons = {reason for reasons in known["throttle"] for reason in reasons} - {_IDLE}
    return GpuState(
        **{field: next(iter(known[field]), None) for field in ("name", "driver")},
        **{field: statistics.median(known[field]) if known[field] else None for field in _MEDIANS},
        **{field: max(known[field], default=None) for field in _MAXIMA},
        throttle=tuple(sorted(reasons)) if known["throttle"] else None,
        readings=len(readings),
    )


def _own(processes: Any) -> int | None:
    """This process's memory; None where NVML does not list it, as in a container."""
    return next((p.usedGpuMemory for p in processes if p.pid == os.getpid()), None)


def _reasons(api: Any, active: int) -> tuple[str, ...]:
    found = {n.removeprefix(_PREFIX): getattr(api, n) for n in dir(api) if n.startswith(_PREFIX)}
    return tuple(
        name
        for name, bit in found.items()
        if isinstance(bit, int) and bit and bit.bit_count() == 1 and active & bit
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
