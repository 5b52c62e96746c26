"""What is said of a GPU and its driver, over CUDA, files and NVML that are made up."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from latentrt.engines.cuda import device as cuda_device
from latentrt.engines.cuda.device import Gpu, Missing, bus_id, gpu


def cuda_that_says(driver: int, code: str, count: int) -> SimpleNamespace:
    success = SimpleNamespace(name="cudaSuccess", value=0)
    answer = success if code == "cudaSuccess" else SimpleNamespace(name=code, value=100)
    device = SimpleNamespace(name=b"NVIDIA L4\0\0", major=8, minor=9)
    return SimpleNamespace(
        cudaError_t=SimpleNamespace(cudaSuccess=success),
        cudaDriverGetVersion=lambda: (success, driver),
        cudaGetDeviceCount=lambda: (answer, count),
        cudaGetDeviceProperties=lambda _: (success, device),
        # 13 bytes of it, and the buffer's blanks behind them.
        cudaDeviceGetPCIBusId=lambda length, number: (
            answer,
            b"0000:81:00.0\0".ljust(length) if number == 0 else None,
        ),
    )


@pytest.mark.parametrize(
    ("api", "problem"),
    [
        (cuda_that_says(0, "cudaErrorInsufficientDriver", 0), "no NVIDIA driver was found"),
        (cuda_that_says(12020, "cudaErrorInsufficientDriver", 0), "cudaErrorInsufficientDriver"),
        (cuda_that_says(13000, "cudaErrorNoDevice", 0), "cudaErrorNoDevice"),
    ],
)
def test_missing_parts_of_a_gpu_are_named(
    monkeypatch: pytest.MonkeyPatch, api: SimpleNamespace, problem: str
) -> None:
    monkeypatch.setattr(cuda_device, "cuda", lambda: api)
    found = gpu()
    assert isinstance(found, Missing)
    assert problem in found.problem
    assert "driver" in found.remedy


def test_a_gpu_has_a_name_a_target_and_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "cuda", lambda: cuda_that_says(13020, "cudaSuccess", 1))
    monkeypatch.setattr(cuda_device, "driver_version", lambda: "595.10")
    assert gpu() == Gpu("NVIDIA L4", "sm89", "13.2", "595.10")


def test_a_gpu_is_found_again_by_its_bus_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "cuda", lambda: cuda_that_says(13020, "cudaSuccess", 1))
    assert bus_id() == "0000:81:00.0"


def test_where_no_gpu_answers_there_is_no_bus_id(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = cuda_that_says(13020, "cudaErrorNoDevice", 0)
    monkeypatch.setattr(cuda_device, "cuda", lambda: nobody)
    assert bus_id() is None
    mute = cuda_that_says(13020, "cudaSuccess", 1)
    refused = SimpleNamespace(name="cudaErrorInvalidDevice", value=101)
    mute.cudaDeviceGetPCIBusId = lambda *_: (refused, None)
    monkeypatch.setattr(cuda_device, "cuda", lambda: mute)
    assert bus_id() is None


def test_without_cuda_python_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    found = gpu()
    assert isinstance(found, Missing)
    assert found.remedy == "pip install 'cuda-bindings>=13'"
    assert bus_id() is None


# As Linux has it with the driver's own modules, and with those whose source is open.
PROPRIETARY = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
OPEN = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""


@pytest.mark.parametrize(
    ("text", "version"), [(PROPRIETARY, "535.104.05"), (OPEN, "580.65.06"), ("NVRM 1", "577.1")]
)
def test_the_driver_says_its_version_on_linux_or_else_through_nvml(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, version: str
) -> None:
    calls: list[str] = []
    nvml = SimpleNamespace(
        nvmlInit=lambda: calls.append("init"),
        nvmlSystemGetDriverVersion=lambda: b"577.1",
        nvmlShutdown=lambda: calls.append("shutdown"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(cuda_device, "_SAYS", tmp_path / "version")
    assert cuda_device.driver_version() == version
    assert calls == (["init", "shutdown"] if version == "577.1" else [])


def test_a_driver_of_unknown_version_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise RuntimeError("NVML: driver not loaded")

    monkeypatch.setattr(cuda_device, "_SAYS", tmp_path / "none")
    for nvml in (None, SimpleNamespace(nvmlInit=refuse)):
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        assert cuda_device.driver_version() == ""
