"""A GPU read while something runs, over a fake NVML: nobody has run this on a GPU."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from latentrt.benchmarks.latency import nvml
from latentrt.benchmarks.latency.nvml import GpuState, GpuWatch


class RefusedError(Exception):
    """What NVML raises."""


READINGS: tuple[dict[str, Any], ...] = (
    # Nothing to do yet; then at work, too hot, and at the limit of its power.
    {"clock": 300, "power": 60_000, "heat": 40, "used": 1_000, "why": 1},
    {"clock": 1500, "power": 300_500, "heat": 88, "used": 9_000, "why": 64},
    {"clock": 1400, "power": 250_500, "heat": 80, "used": 5_000, "why": 4 + 1},
)


class FakeNvml:
    """NVML's package over `READINGS`, after which a GPU says nothing; `done` when they are read.

    `read` are the handles of the GPUs that were asked for their name.
    """

    NVMLError = RefusedError
    BUS = "0000:81:00.0"
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, refused: frozenset[str] = frozenset()) -> None:
        self.refused = refused
        reasons = {"None": 0, "GpuIdle": 1, "SwPowerCap": 4, "HwThermalSlowdown": 64, "All": 69}
        vars(self).update({f"nvmlClocksThrottleReason{name}": bit for name, bit in reasons.items()})
        self.begun = 0
        self.open = 0
        self.done = threading.Event()
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in self.refused:
            raise AttributeError(name)
        answers: dict[str, Callable[[], Any]] = {
            "nvmlDeviceGetHandleByIndex": lambda: "the first",
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetClockInfo": lambda: self._now["clock"],
            "nvmlDeviceGetPowerUsage": lambda: self._now["power"],
            "nvmlDeviceGetTemperature": lambda: self._now["heat"],
            "nvmlDeviceGetMemoryInfo": lambda: SimpleNamespace(used=self._now["used"]),
            "nvmlDeviceGetComputeRunningProcesses": lambda: [
                SimpleNamespace(pid=-1, usedGpuMemory=7)
            ],
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda: self._now["why"],
            "nvmlInit": lambda: self._count(1),
            "nvmlShutdown": lambda: self._count(-1),
        }
        return lambda *_: answers[name]()

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:  # noqa: N802
        if bus != self.BUS:
            raise RefusedError
        return "that on the bus"

    def nvmlDeviceGetName(self, handle: str) -> bytes:  # noqa: N802
        self.read.add(handle)
        return self._next()

    def _count(self, change: int) -> None:
        self.open += change

    def _next(self) -> bytes:
        self.begun += 1
        if self.begun > len(READINGS):
            self.done.set()
        return b"A GPU"

    @property
    def _now(self) -> dict[str, Any]:
        if self.begun > len(READINGS):
            raise RefusedError
        return READINGS[self.begun - 1]


def watched(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch, bus: str | None = None) -> GpuState:
    monkeypatch.setattr(nvml, "bus_id", lambda: bus)
    monkeypatch.setattr(nvml.importlib, "import_module", lambda _: fake)
    with GpuWatch(interval=0.001) as watch:
        assert fake.done.wait(60)
    assert watch.state is not None
    assert fake.open == 0
    return watch.state


def test_a_gpu_is_read_while_it_works_and_says_why_it_was_throttled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = watched(FakeNvml(), monkeypatch)
    assert (state.name, state.driver) == ("A GPU", "580.1")
    # Medians of the three, by hand; and the greatest of them.
    assert (state.sm_clock, state.memory_clock, state.power) == (1400, 1400, 250.5)
    assert (state.temperature, state.memory_used) == (88, 9_000)
    # This process is not among those that NVML lists, and an idle GPU is not throttled.
    assert state.memory_own is None
    assert state.throttle == ("HwThermalSlowdown", "SwPowerCap")
    assert state.readings > len(READINGS)
    json.dumps(asdict(state))


# NVML counts every GPU of the machine; CUDA may see few of them, and the fastest first.
@pytest.mark.parametrize(
    ("bus", "expected"),
    [
        (FakeNvml.BUS, "that on the bus"),
        ("0000:01:00.0", "the first"),  # NVML does not know it
        (None, "the first"),
    ],
)
def test_the_gpu_that_is_read_is_the_one_that_engines_run_on_or_else_the_first(
    monkeypatch: pytest.MonkeyPatch, bus: str | None, expected: str
) -> None:
    fake = FakeNvml()
    watched(fake, monkeypatch, bus)
    assert fake.read == {expected}


def test_a_value_that_nvml_lacks_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = "nvmlDeviceGetCurrentClocksThrottleReasons"
    refused = frozenset({"nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo", reasons})
    state = watched(FakeNvml(refused), monkeypatch)
    assert (state.power, state.memory_used, state.throttle) == (None, None, None)
    assert (state.name, state.sm_clock, state.temperature) == ("A GPU", 1400, 88)


def test_without_a_driver_or_gpu_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(_: str) -> Any:
        def init() -> None:
            raise RefusedError

        return SimpleNamespace(nvmlInit=init, NVMLError=RefusedError)

    monkeypatch.setattr(nvml.importlib, "import_module", no_driver)
    with GpuWatch() as watch:
        pass
    assert watch.state is None
    fake = FakeNvml(frozenset({"nvmlDeviceGetHandleByIndex"}))
    monkeypatch.setattr(nvml, "bus_id", lambda: None)
    monkeypatch.setattr(nvml.importlib, "import_module", lambda _: fake)
    with GpuWatch() as watch:
        pass
    assert (watch.state, fake.open) == (None, 0)
