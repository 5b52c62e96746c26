"""An earlier report: which may be compared, what is said of the rest, and the ratios."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.reported import REPORT
from tests.cli.outcome import Run

from latentrt.benchmarks.latency.ceilings import Ceilings
from latentrt.benchmarks.latency.earlier import Earlier
from latentrt.benchmarks.latency.report import Errors
from latentrt.benchmarks.samples import Samples
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import FileError
from latentrt.cli import benchmark

Bundles = Callable[[str], Path]
VALUE: dict[str, Any] = json.loads(json.dumps(REPORT.to_json()))


def written(folder: Path, value: dict[str, Any] = VALUE) -> Path:
    path = folder / "old.json"
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "is not JSON"),
        (b"[]", "has schema None, and this version compares 'latentrt-bench-3'"),
        (b'{"schema": "latentrt-bench-2"}', "has schema 'latentrt-bench-2', and this version"),
        (b'{"schema": "latentrt-bench-3", "kind": "sweep"}', "is a sweep"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_report_of_this_schema_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "old.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=message):
        Earlier.read(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("rows", {"image": 1}),
        ("rows", {"image": {"seconds": [0.0]}}),
        ("throughput", [{}]),
        ("errors", {"relative": {"unet": "small"}, "psnr": None}),
        ("ceilings", {"openvino fp32": {"rate": 0.0, "bandwidth": None}}),
        ("workload", {}),
        ("machine", []),
        ("precisions", {}),
    ],
)
def test_a_report_that_is_not_whole_is_refused(tmp_path: Path, place: str, value: Any) -> None:
    with pytest.raises(FileError, match="is not a whole report"):
        Earlier.read(written(tmp_path, {**VALUE, place: value}))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "128x64", "compare: expected a report of size 128x64, got 64x64"),
        ("--steps", 3, "compare: expected a report of steps 3, got 2"),
        ("--guidance-scale", 1, "compare: expected a report of guidance 1, got 7.5"),
        ("--runs", 9, ""),
    ],
)
def test_a_report_of_another_image_is_refused_before_anything_is_measured(
    run: Run,
    bundle: Bundles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: object,
    message: str,
) -> None:
    measured: list[object] = []
    monkeypatch.setattr(benchmark, "measure", lambda *given: measured.append(given) or REPORT)
    source = Bundle.open(bundle("heads")).manifest.source
    old = written(tmp_path, {**VALUE, "workload": {**VALUE["workload"], "source": source}})
    done = run("bench", bundle("heads"), "--compare", old, "--steps", 2, option, value)
    assert (done.status, bool(measured)) == ((2, False) if message else (0, True)), done.err
    assert message in done.err
    other = written(tmp_path)
    done = run("bench", bundle("heads"), "--compare", other, "--steps", 2)
    assert done.status == 2
    assert "got somebody's" in done.err


def test_a_ratio_is_of_every_row_that_both_have_and_remarks_a_grown_error(tmp_path: Path) -> None:
    earlier = Earlier.read(written(tmp_path))
    rows = {**REPORT.rows, "image": Samples.of([1.0]), "unet call": Samples.of([0.4, 0.4])}
    rows = {name: row for name, row in rows.items() if name != "text"}
    errors = Errors({**REPORT.errors.relative, "unet": 2e-3}, 60.0)
    ratios = earlier.ratios(replace(REPORT, rows=rows, errors=errors))
    found = {name: (ratio.median, ratio.verdict, remark) for name, ratio, remark in ratios}
    assert "text" not in found
    assert found["image"] == (2.0, "faster", "")
    assert found["unet call"] == (2.0, "faster", "its error grew from 1.2e-04 to 2.0e-03")
    assert found["throughput, batch 2"] == (1.0, "the same", "")


def test_everything_else_that_decides_speed_is_named_where_it_changed(tmp_path: Path) -> None:
    earlier = Earlier.read(written(tmp_path))
    assert earlier.differences(REPORT) == ()
    workload = copy.deepcopy(dict(REPORT.workload))
    workload["engine"] = {"engine": "auto", "precision": "bf16", "options": {"streams": 4}}
    workload["sampler"] = "euler"
    machine = replace(REPORT.machine, cores=4, packages={"openvino": "2026.5.0"})
    now = replace(
        REPORT,
        workload=workload,
        machine=machine,
        precisions={"unet": "bf16"},
        ceilings={"tensorrt fp16": Ceilings(1.2e12, None)},
    )
    assert earlier.differences(now) == (
        "engine of unet: tensorrt fp16, now tensorrt bf16",
        "option streams: 1, now 4",
        "sampler: ddim, now euler",
        "cores: 2, now 4",
        "version of openvino: 2026.4.1, now 2026.5.0",
        "the machine's products of tensorrt fp16, GFLOP/s: 1000.0, now 1200.0",
    )
