"""What an NVIDIA GPU says of itself through NVML while it works.

Unverified: no GPU was at hand.
"""

from __future__ import annotations

import importlib
import os
import statistics
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final, Self

from latentrt.engines.cuda.device import bus_id

_INTERVAL: Final = 0.2
_PREFIX: Final = "nvmlClocksThrottleReason"
_IDLE: Final = "GpuIdle"  # slow because there was nothing to do, as between two calls


@dataclass(frozen=True, slots=True)
class GpuState:
    """A GPU over some time; what it does not say is None.

    Of `readings`, clocks (MHz) and power (watts) are the medians, temperature (degrees Celsius) and
    memory (bytes: all that is in use, and this process's part) the greatest. `throttle` are all
    reasons, in NVML's words, for which it ran slower than it could, having nothing to do left out.
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

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


class GpuWatch:
    """Reads the GPU that engines run on in a thread of its own, once in `interval` seconds at most.

    It does so inside its `with` block, at least once. Where CUDA does not say which GPU that is, it
    is the first in NVML's order. Without NVML, its Python package or a GPU there is nothing to
    read, and no thread.
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
            name = "latentrt-nvml"
            self._thread = threading.Thread(target=self._watch, args=(handle,), name=name)
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
        """What was read, when the block is over; None where nothing could be."""
        return _summed_up(self._readings) if self._readings else None

    def _watch(self, handle: Any) -> None:
        while True:
            self._readings.append(_read(self._api, handle))
            if self._over.wait(self._interval):
                return


def _handle(api: Any) -> Any:
    """Of the GPU that engines run on, or else of the first; None where NVML has neither."""
    bus = bus_id()
    found = None if bus is None else _said(api, lambda: api.nvmlDeviceGetHandleByPciBusId(bus))
    return _said(api, lambda: api.nvmlDeviceGetHandleByIndex(0)) if found is None else found


def _read(api: Any, handle: Any) -> dict[str, Any]:
    """Every field by itself: a GPU, a driver or a container may keep any of them back."""
    asked: dict[str, Callable[[], Any]] = {
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
    return {field: _said(api, ask) for field, ask in asked.items()}


def _said(api: Any, ask: Callable[[], Any]) -> Any:
    """The answer; None where NVML refuses it, or the package has no such question."""
    try:
        return ask()
    except (api.NVMLError, AttributeError):
        return None


def _summed_up(readings: list[dict[str, Any]]) -> GpuState:
    said: dict[str, list[Any]] = {
        field: [reading[field] for reading in readings if reading[field] is not None]
        for field in readings[0]
    }
    medians = ("sm_clock", "memory_clock", "power")
    greatest = ("temperature", "memory_used", "memory_own")
    throttle = {reason for reasons in said["throttle"] for reason in reasons} - {_IDLE}
    return GpuState(
        name=next(iter(said["name"]), None),
        driver=next(iter(said["driver"]), None),
        **{field: statistics.median(said[field]) if said[field] else None for field in medians},
        **{field: max(said[field], default=None) for field in greatest},
        throttle=tuple(sorted(throttle)) if said["throttle"] else None,
        readings=len(readings),
    )


def _own(processes: Any) -> int | None:
    """This process's memory; None where it is not in the list, as in a container, or is unknown."""
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
