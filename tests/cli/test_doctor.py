"""What `latentrt doctor` says of engines, of the GPU, and of what nobody has run."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from latentrt.cli import doctor
from latentrt.cli.main import main
from latentrt.engines.cuda.device import Gpu, Missing
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions
from latentrt.engines.options import NoOptions
from latentrt.engines.registry import Backend, Status

STATUSES = {
    "quick": Status(None, problem="quick is not installed", remedy="pip install quick"),
    "odd": Status("2.0", problem="no NPU was found", remedy="buy one"),
    "plain": Status("1.0", ("CPU",)),
    "new": Status("3.0", ("GPU",)),
}
PRECISIONS = {"float32": ("bf16", "fp32"), "float16": ("fp16",)}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """These engines and no others."""

    def backend(name: str, status: Status) -> Backend:
        compiler: Any = SimpleNamespace(status=lambda: status)
        reason = "nobody has run it" if name in ("odd", "new") else ""
        options = OnnxRuntimeOptions if name == "plain" else NoOptions
        return Backend(name, "cpu", PRECISIONS, options, name, lambda: compiler, unverified=reason)

    made = {name: backend(name, status) for name, status in STATUSES.items()}
    monkeypatch.setattr(doctor, "BACKENDS", made)


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["latentrt", "doctor"])
    main()
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("engines")
def test_every_engine_has_a_line_with_what_is_missing_and_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(monkeypatch, capsys)
    lines = lines[: lines.index("options, as --option NAME=VALUE:")]
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}
    assert rows["quick"] == "quick - quick is not installed pip install quick"
    assert rows["odd"] == "odd 2.0 no NPU was found buy one"
    assert rows["plain"] == "plain 1.0 CPU fp32, fp16, bf16 works"
    assert rows["new"] == "new 3.0 GPU fp32, fp16, bf16 unverified"


@pytest.mark.usefixtures("engines")
def test_every_option_of_an_engine_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(monkeypatch, capsys)
    at = lines.index("options, as --option NAME=VALUE:")
    assert lines[at + 1].startswith("  plain threads: CPU threads of one call")
    assert lines[at + 2].startswith("  plain arena: ")
    assert not lines[at + 3].startswith("  ")


@pytest.mark.usefixtures("engines")
def test_unverified_are_the_engines_that_say_so_and_the_cuda_generator() -> None:
    found = doctor.diagnose()["unverified"]
    assert [line.split(":")[0] for line in found] == [
        "engine odd",
        "engine new",
        "generator torch-cuda",
    ]


def test_the_gpu_is_named_or_what_is_missing_before_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Gpu("NVIDIA L4", "sm89", "13.0", "580.95.05")
    monkeypatch.setattr(doctor, "gpu", lambda: device)
    line = "NVIDIA GPU: NVIDIA L4 (sm89), CUDA 13.0, driver 580.95.05"
    assert line in told(monkeypatch, capsys)
    monkeypatch.setattr(doctor, "gpu", lambda: Gpu("NVIDIA L4", "sm89", "13.0"))
    assert "NVIDIA GPU: NVIDIA L4 (sm89), CUDA 13.0" in told(monkeypatch, capsys)
    monkeypatch.setattr(doctor, "gpu", lambda: Missing("no driver was found", "install it"))
    assert "NVIDIA GPU: no driver was found; install it" in told(monkeypatch, capsys)
