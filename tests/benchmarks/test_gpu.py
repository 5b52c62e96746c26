"""`make gpu` over the CPU's engines, and PyTorch's CUDA numbers without a device."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cuda_noise
import gpu
import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.runtime.noise.philox import PhiloxNoise

Bundles = Callable[[str], Path]
DOCTOR: dict[str, Any] = {
    "nvidia_gpu": {"found": True, "name": "NVIDIA L4"},
    "engines": [
        {"name": "tensorrt", "devices": ["GPU"], "problem": "no driver", "precisions": []},
        {"name": "onnxruntime", "devices": ["CPU"], "problem": "", "precisions": ["fp32"]},
    ],
}


def called(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: object) -> tuple[int, Any]:
    """The script's exit status and what it wrote."""
    monkeypatch.setattr(gpu, "noise", lambda _: {"found": False})
    monkeypatch.setattr(sys, "argv", ["gpu", "--json", str(path), *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    return int(str(stopped.value.code)), json.loads(path.read_text())


def test_an_engine_is_built_compared_and_benchmarked(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = ("--cpu", "--engine", "onnxruntime", "--runs", 1, "--steps", 1)
    real = gpu.run

    def run(python: str, command: str, *more: object, limit: float) -> dict[str, Any]:
        short = ("--no-cold", "--no-ceilings", "--batch", 0) if command == "bench" else ()
        return real(python, command, *more, *short, limit=limit)

    monkeypatch.setattr(gpu, "run", run)
    found = called(monkeypatch, tmp_path / "a.json", *quick, "--bundle", bundle("heads"))
    status, value = found
    (row,) = value["rows"]
    assert (status, value["passed"]) == (0, True)
    assert (row["engine"], row["precision"], row["bundle"]) == ("onnxruntime", "fp32", "heads")
    assert row["compare"]["found"]["passed"]
    assert row["bench"]["found"]["rows"]["image"]["median"] > 0
    assert [engine["name"] for engine in value["engines"]] == ["openvino", "onnxruntime"]


def test_a_command_that_fails_is_kept_with_its_last_line_and_nothing_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(python: str, command: str, *_: object, limit: float) -> dict[str, Any]:
        if command == "doctor":
            return {"status": 0, "found": DOCTOR, "message": ""}
        status = 3 if command == "compare" else 0
        return {"status": status, "found": None, "message": "out of tolerance" if status else ""}

    monkeypatch.setattr(gpu, "run", run)
    status, value = called(monkeypatch, tmp_path / "a.json", "--cpu", "--bundle", "somewhere")
    assert (status, value["passed"]) == (1, False)
    assert value["rows"][0]["compare"]["message"] == "out of tolerance"
    # A GPU of which no engine is usable: nothing was measured, so nothing passed.
    status, value = called(monkeypatch, tmp_path / "b.json", "--bundle", "somewhere")
    assert (status, value["rows"]) == (1, [])
    assert value["engines"][0]["problem"] == "no driver"


def test_an_engine_runs_in_the_first_environment_that_can_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usable = [{"name": "tensorrt", "devices": ["GPU"], "problem": "", "precisions": ["fp16"]}]
    doctors = {"here": DOCTOR, "other": {"engines": usable}}
    monkeypatch.setattr(gpu, "run", lambda python, *_, **__: {"found": doctors.get(python)})
    (found,) = gpu.engines(["here", "gone", "other"], cpu=False, limit=1.0)
    assert (found["name"], found["python"]) == ("tensorrt", "other")


def ours(seed: int, shapes: Sequence[tuple[int, ...]], threads: int) -> list[NDArray[np.float32]]:
    stream = PhiloxNoise(seed, threads=threads)
    return [stream.normal(shape) for shape in shapes]


def test_numbers_of_the_same_stream_agree_and_of_others_do_not() -> None:
    threads = 132 * 2048
    same = cuda_noise.compare(lambda s, c: [n + 1e-6 for n in ours(s, c, threads)], threads)
    assert same["agrees"]
    # Numbers below 8, where float32 has steps of 4.8e-7.
    assert same["max_abs"] == pytest.approx(1e-6, abs=5e-7)
    assert len(same["cases"][0]["sha256"]) == 64
    other = cuda_noise.compare(lambda s, c: ours(s ^ 1, c, threads), threads)
    assert not other["agrees"]
    assert all(case["max_abs"] > 1 for case in other["cases"])
    # Numbers that another count of threads made: alike only where each thread makes one.
    fewer = cuda_noise.compare(lambda s, c: ours(s, c, threads), 28 * 1536)
    assert not fewer["agrees"]
    assert (fewer["cases"][0]["max_abs"], fewer["cases"][-1]["max_abs"] > 1) == (0.0, True)


def test_without_pytorch_or_a_device_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = cuda_noise.on_device()
    assert not found["found"]
    assert found["problem"].startswith("PyTorch is not installed")
