"""A sweep: every combination is a row, in a process of its own, and a failure says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.benchmarks.test_bench import validate
from tests.cli.outcome import Run

from latentrt.benchmarks.latency import sweep as module
from latentrt.benchmarks.latency.sweep import Grid, measure_point, sweep, table
from latentrt.benchmarks.latency.workload import Workload
from latentrt.bundle.errors import EngineError
from latentrt.runtime import Request, Sampling, Size

Bundles = Callable[[str], Path]
BASE = Workload(
    Path("b"), {"engine": "x", "options": {"threads": 1}}, Request("a", sampling=Sampling(steps=1))
)
FOUND = {"size": "64x64", "precision": "fp32", "first": 2.0, "seconds": [0.5, 0.5], "memory": 10**9}
ERRORS = {"relative": {"unet": 1e-6}, "psnr": 60.0}


def test_a_grid_has_every_combination_and_keeps_the_rest_of_the_workload() -> None:
    grid = Grid(("a", "b"), (Size(64, 64), None), (1, 2), (1, 4))
    workloads = grid.workloads(BASE)
    assert len(workloads) == 16
    last, batch = workloads[-1]
    assert (last.engine, batch) == ({"engine": "b", "options": {"threads": 1}}, 4)
    assert (last.request.size, last.request.sampling.steps) == (None, 2)
    assert (grid.is_sweep, Grid(("a",), (None,), (1,), (1, 2)).is_sweep) == (True, False)


def test_a_point_that_fails_is_a_row_and_an_engines_errors_are_measured_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, bool]] = []

    def answers(name: str, module: str, job: Mapping[str, Any]) -> dict[str, Any]:
        asked.append((job["batch"], job["errors"]))
        if job["batch"] == 1:
            raise EngineError("process: ended by SIGKILL: no message")
        if job["batch"] == 2:
            return {"problem": "engine x: not installed"}
        return {**FOUND, "errors": ERRORS if job["errors"] else None}

    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(module, "answer_of", answers)
    grid = Grid(("x",), (None,), (1,), (1, 2, 4, 8))
    found = sweep(BASE, grid, "s", runs=2, limit=1.0, progress=lambda *each: told.append(each))
    assert asked == [(1, True), (2, True), (4, True), (8, False)]
    problems = ["process: ended by SIGKILL: no message", "engine x: not installed", "", ""]
    assert [point.problem for point in found.points] == problems
    # Eight images in half a second.
    assert found.points[3].rate == 16.0
    assert [point.errors.relative.get("unet") for point in found.points[2:]] == [1e-6, 1e-6]
    assert (told[0], told[-1]) == (("x, own size, 1 steps, batch 1", 0, 4), ("", 4, 4))
    validate(json.loads(json.dumps(found.to_json())))
    shown = table(found)
    assert {len(row) for row in shown.rows} == {len(shown.heads)}
    assert shown.rows[1][-1] == "engine x: not installed"
    assert shown.rows[3][:5] == ("x fp32", "64x64", "1", "8", "16.000")


def test_an_interrupt_keeps_the_points_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{**FOUND, "errors": ERRORS}])

    def answer(*_: object, **__: object) -> dict[str, Any]:
        for each in answers:
            return each
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "answer_of", answer)
    grid = Grid(("x",), (None,), (1, 2), (1,))
    found = sweep(BASE, grid, "s", runs=1, limit=1.0, progress=lambda *_: None)
    assert (len(found.points), found.interrupted) == (1, True)


def test_a_point_without_memory_or_engine_says_its_problem(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"batch": 1, "runs": 1, "limit": 1.0, "errors": False}
    absent = {**BASE.to_json(), **asked, "bundle": str(bundle("heads"))}
    assert "engine: expected one of" in measure_point(absent)["problem"]

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module.Pipeline, "open", full)
    assert measure_point(absent) == {"problem": "MemoryError"}


def test_the_command_sweeps_engines_and_batches_into_one_table_and_one_plot(
    run: Run, bundle: Bundles, tmp_path: Path
) -> None:
    plot, page = tmp_path / "a.png", tmp_path / "a.html"
    done = run(
        "bench", bundle("heads"), "--engine", "onnxruntime,nobody", "--steps", 1,
        "--batch", "1,2", "--runs", 1, "--plot", plot, "--html", page, "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    value = json.loads(done.out)
    validate(value)
    points = value["points"]
    assert [(p["engine"], p["batch"], bool(p["problem"])) for p in points] == [
        ("onnxruntime", 1, False),
        ("onnxruntime", 2, False),
        ("nobody", 1, True),
        ("nobody", 2, True),
    ]
    for point in points[:2]:
        assert (point["precision"], point["size"], point["steps"]) == ("fp32", "64x64", 1)
        # fp32 rounding.
        assert 0 < point["errors"]["relative"]["unet"] < 1e-5
        assert point["memory"] > 1e7
    with Image.open(plot) as opened:
        assert opened.format == "PNG"
    assert "engine: expected one of" in page.read_text()
