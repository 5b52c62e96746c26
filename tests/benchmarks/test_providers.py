"""Backends of several environments: which is tried where, and what is said of the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentrt.benchmarks import campaign, providers
from latentrt.benchmarks.campaign import Campaign, Subject, measure
from latentrt.benchmarks.providers import Environment
from latentrt.engines.cuda.device import Missing
from latentrt.engines.registry import BACKENDS, Status

CUDA, TENSORRT = "onnxruntime-cuda", "tensorrt"
CPU_PACKAGE = Status(None, problem="is the CPU package", remedy="pip install another")
NO_DRIVER = Missing("no NVIDIA driver was found", "install it")


def environment(name: str, **statuses: Status) -> Environment:
    """One that knows every backend, and has those."""
    lacking = {name: Status(None, problem=f"{name} is not installed") for name in BACKENDS}
    return Environment(
        name, "python", lacking | {n.replace("_", "-"): s for n, s in statuses.items()}
    )


def found(*environments: Environment) -> list[tuple[str, str, str | None]]:
    """Name, environment and version of what can be used."""
    return [
        (p.name, p.environment.name, p.status.version)
        for p in providers.providers(environments)
        if p.status.usable
    ]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another environment: a script that is this Python."""
    python = tmp_path / "other" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path / "other"


def test_a_backend_is_tried_in_each_of_its_versions_where_that_is_found_first() -> None:
    rtx = Status("1.7.1 (tensorrt-rtx)", ("a GPU",))
    data_centre = Status("11.0 (tensorrt)", ("a GPU",))
    cuda = Status("1.31.1", ("a GPU",))
    here = environment("", tensorrt=rtx, onnxruntime_cuda=CPU_PACKAGE)
    others = (
        environment("a", tensorrt=rtx, onnxruntime_cuda=cuda),
        environment("b", onnxruntime_cuda=cuda),
        environment("c", tensorrt=data_centre),
    )
    assert found(here, *others) == [
        (TENSORRT, "", "1.7.1 (tensorrt-rtx)"),
        (TENSORRT, "c", "11.0 (tensorrt)"),
        (CUDA, "a", "1.31.1"),
    ]


def test_a_backend_that_is_nowhere_usable_is_told_once_by_who_lacks_least_for_it() -> None:
    no_gpu = Status("1.31.1", problem="no NVIDIA GPU can be used")
    here, there = (
        environment("", onnxruntime_cuda=CPU_PACKAGE),
        environment("there", onnxruntime_cuda=no_gpu),
    )
    asked = providers.providers([here, there, Environment("gone", "", {}, "it was not made")])
    assert [p.name for p in asked] == list(BACKENDS)
    told = {p.name: p for p in asked}
    assert told[CUDA].status.problem == "no NVIDIA GPU can be used"
    assert told[TENSORRT].status.problem == "tensorrt is not installed"


def test_an_environment_says_what_it_has_or_why_it_says_nothing(
    other: Path, tmp_path: Path
) -> None:
    asked = Environment.of(other, tmp_path, 60.0)
    assert (asked.name, asked.problem) == ("other", "")
    assert asked.statuses == Environment.here().statuses
    missing = Environment.of(tmp_path / "gone", tmp_path, 60.0)
    assert (dict(missing.statuses), missing.problem) == ({}, "it was not made")
    python = other / "bin" / "python"
    python.write_text("#!/bin/sh\necho no module named latentrt >&2; exit 1\n")
    broken = Environment.of(other, tmp_path, 60.0)
    assert (dict(broken.statuses), broken.problem) == (
        {},
        "exit status 1: no module named latentrt",
    )


def test_an_engine_that_only_another_environment_has_is_tried_by_its_python(
    bundle: Callable[[str], Path], other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = providers.backend

    def lacking(name: str) -> Any:
        if name == "onnxruntime":
            status = Status(None, problem="onnxruntime is not installed")
            return SimpleNamespace(status=lambda: status)
        return real(name)

    def child(module: str, arguments: Any, *more: Any) -> dict[str, Any]:
        if module.endswith("torch_noise"):
            return {"found": False}
        pythons.append(more[2])
        return run(module, arguments, *more)

    pythons: list[str] = []
    run = campaign.child
    monkeypatch.setattr(providers, "backend", lacking)
    monkeypatch.setattr(campaign, "child", child)
    asked = Campaign(
        (Subject("heads", "", path=bundle("heads")),),
        on_cpu=True,
        engines=("onnxruntime",),
        repeats=1,
        steps=1,
        environments=(other, other.parent / "gone"),
    )
    row = measure(asked, NO_DRIVER)
    assert row["passed"], row
    assert row["environments"] == [
        {"name": "other", "problem": ""},
        {"name": "gone", "problem": "it was not made"},
    ]
    (ran,) = (p for p in row["providers"] if p["runs"])
    assert (ran["name"], ran["environment"]) == ("onnxruntime", "other")
    (tried,) = row["bundles"][0]["engines"]
    assert (tried["engine"], tried["environment"]) == ("onnxruntime", "other")
    assert tried["version"] == ran["version"]
    assert tried["compare"]["passed"]
    assert pythons == [os.path.abspath(other / "bin" / "python")]
