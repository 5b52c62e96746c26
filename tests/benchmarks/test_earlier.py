"""An earlier report: what may be held against it, and what is said of the rest."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.cli.conftest import run
from tests.cli.outcome import Run

from latentrt.benchmarks.latency import bench
from latentrt.benchmarks.latency.earlier import Earlier
from latentrt.benchmarks.latency.report import Report
from latentrt.benchmarks.latency.samples import Samples
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import FileError

__all__ = ["run"]  # the fixture

Bundles = Callable[[str], Path]
OWN = "the machine's own"


def report(source: str = "heads") -> dict[str, Any]:
    """As much of a report's JSON as is read of an earlier one: 7 pictures of 2 steps."""
    return {
        "schema": "latentrt-bench-2",
        "subject": {
            "source": source,
            "size": "64x64",
            "dtype": "float32",
            "sampler": "ddim",
            "options": {"precision": "auto", "threads": None},
            "request": {
                "prompt": "a red circle",
                "sampling": {"steps": 2},
                "guidance": {"scale": 7.5},
            },
        },
        "engines": {"unet": "openvino"},
        "precisions": {"unet": "fp32"},
        "machine": {
            "processor": "A CPU",
            "flags": ["avx2"],
            "cores": 2,
            "system": "Linux",
            "python": "3.11.7",
            "packages": {"openvino": "2026.4.1"},
        },
        "rows": {"picture": {"stable": True}, "step": {"stable": False}, "own": {"stable": True}},
        "runs": {"picture": [[2.0]] * 7, "step": [[1.0, 1.0]] * 7, "own": [[0.5]] * 7},
        "ceilings": {"openvino fp32": {"rate": 4e11, "bandwidth": 4e10}},
        "served": [],
        "arrivals": [],
        "errors": {"steps": 1e-6},
        "picture_psnr": 60.0,
    }


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "old.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("runs", None),
        ("runs", {"picture": "fast"}),
        ("runs", {"picture": [0.0]}),
        ("runs", {"picture": [[0.0]]}),
        ("runs", {"step": [[1.0], [1.0, 1.0]]}),
        ("arrivals", [{"points": []}]),
        ("arrivals", [{"server": "one", "limit": 1.0, "points": []}]),
        ("errors", {"unet": "small"}),
        ("rows", {"picture": 1}),
        ("ceilings", {"openvino fp32": {"rate": 0.0, "bandwidth": None}}),
        ("ceilings", {"openvino fp32": {"rate": 1e9}}),
        ("subject", {}),
        ("machine", []),
        ("precisions", {}),
    ],
)
def test_a_report_that_is_not_whole_is_named(tmp_path: Path, place: str, value: Any) -> None:
    path = written(tmp_path, {**report(), place: value})
    with pytest.raises(FileError, match="is no whole report of `latentrt bench`") as caught:
        Earlier.read(path)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "128x64", "compare: expected a report of size 128x64, got 64x64"),
        ("--steps", 3, "compare: expected a report of steps 3, got 2"),
        ("--guidance-scale", 1, "compare: expected a report of guidance 1, got 7.5"),
        ("--prompt", "a star", ""),
    ],
)
def test_a_report_of_another_picture_is_refused_before_anything_is_measured(
    run: Run,
    bundle: Bundles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: object,
    message: str,
) -> None:
    measured: list[object] = []

    def stop(*arguments: object) -> None:
        measured.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure", stop)
    source = Bundle.open(bundle("heads")).manifest.source
    old = written(tmp_path, report(source))
    done = run("bench", bundle("heads"), "--compare", old, "--steps", 2, option, value)
    # Another prompt takes as long.
    assert (done.status, bool(measured)) == ((2, False) if message else (130, True)), done.err
    assert message in done.err


def test_a_report_of_another_checkpoint_is_refused(
    run: Run, bundle: Bundles, tmp_path: Path
) -> None:
    old = written(tmp_path, report("somebody/else"))
    done = run("bench", bundle("heads"), "--compare", old, "--steps", 2)
    assert (done.status, done.out) == (2, "")
    assert "expected a report of source" in done.err
    assert "got somebody/else" in done.err


def test_whatever_else_decides_speed_is_said_if_it_is_not_the_same(tmp_path: Path) -> None:
    earlier = Earlier.read(written(tmp_path, report()))
    now = copy.deepcopy(report())
    assert earlier.differences(cast("Report", SimpleNamespace(to_json=lambda: now))) == ()
    now["precisions"] = {"unet": "bf16"}
    now["subject"]["options"] = {"precision": "bf16", "threads": 4}
    now["subject"]["sampler"] = "euler"
    now["machine"]["cores"] = 4
    now["machine"]["packages"] = {"openvino": "2026.5.0", "transformers": "5.23"}
    assert earlier.differences(cast("Report", SimpleNamespace(to_json=lambda: now))) == (
        "engine of unet: openvino fp32, now openvino bf16",
        "option threads: None, now 4",
        "sampler: ddim, now euler",
        "cores: 2, now 4",
        "version of openvino: 2026.4.1, now 2026.5.0",
        "version of transformers: not said, now 5.23",
    )


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        ({"rate": 4e11, "bandwidth": 4e10}, ()),
        ({"rate": 4.19e11, "bandwidth": 3.81e10}, ()),
        (
            {"rate": 3e11, "bandwidth": 4.4e10},
            (
                f"{OWN} products of openvino fp32, GFLOP/s: 400.0, now 300.0 (0.75 times)",
                f"{OWN} copies beside openvino fp32, GB/s: 40.0, now 44.0 (1.10 times)",
            ),
        ),
        ({"rate": 4e11, "bandwidth": None}, ()),
    ],
)
def test_a_machine_that_is_faster_or_slower_by_itself_is_told(
    tmp_path: Path, now: dict[str, float | None], lines: tuple[str, ...]
) -> None:
    earlier = Earlier.read(written(tmp_path, report()))
    for ceilings in ({"openvino fp32": now}, {"openvino fp32": now, "onnxruntime fp32": now}):
        given = {**report(), "ceilings": ceilings}
        found = earlier.differences(cast("Report", SimpleNamespace(to_json=lambda g=given: g)))
        assert found == lines
    nothing = Earlier.read(written(tmp_path, {**report(), "ceilings": {}}))
    given = {**report(), "ceilings": {"openvino fp32": now}}
    assert nothing.differences(cast("Report", SimpleNamespace(to_json=lambda: given))) == ()


def test_rows_that_had_not_settled_in_either_are_marked(tmp_path: Path) -> None:
    earlier = Earlier.read(written(tmp_path, report()))
    steady, wild = Samples(((1.0,),) * 20), Samples((*((0.25,),) * 19, (1.0,)))
    steps = Samples(((1.0, 1.0),) * 20)
    rows = {"picture": steady, "step": steps, "own": wild}
    now = told(rows)
    found = {each.row: each for each in earlier.verdicts(cast("Report", now))}
    assert {row: each.stable for row, each in found.items()} == {
        "picture": True,
        "step": False,
        "own": False,
    }
    assert (found["picture"].ratio, found["picture"].remarks) == (2.0, "faster")
    assert found["step"].remarks == "same, unstable"
    assert found["own"].to_json()["stable"] is False


def told(rows: dict[str, Samples], errors: Any = None, psnr: float | None = None) -> Report:
    """As much of a report as is held against an earlier one."""
    runs = {name: row.pictures for name, row in rows.items()}
    given = {"rows": rows, "runs": runs, "errors": errors or {}, "picture_psnr": psnr}
    return cast("Report", SimpleNamespace(**given, arrivals=()))


@pytest.mark.parametrize(
    ("steps", "psnr", "remarks"),
    [
        (1e-6, 60.0, {"step": "faster, unstable", "picture": "faster"}),
        # A tenth more is what another order of sums may give; a decibel is 12 %.
        (1.09e-6, 59.5, {"step": "faster, unstable", "picture": "faster"}),
        (
            2.5e-3,
            59.0,
            {
                "step": "faster, unstable, its error grew from 1.0e-06 to 2.5e-03",
                "picture": "faster, its error grew from 60 dB (golden) to 59 dB (golden)",
            },
        ),
    ],
)
def test_beside_what_is_faster_stands_that_its_error_grew(
    tmp_path: Path, steps: float, psnr: float, remarks: dict[str, str]
) -> None:
    earlier = Earlier.read(written(tmp_path, report()))
    rows = {"picture": Samples(((1.0,),) * 20), "step": Samples(((0.5, 0.5),) * 20)}
    found = earlier.verdicts(told(rows, {"steps": steps}, psnr))
    assert {each.row: each.remarks for each in found} == remarks


def test_what_is_not_faster_says_nothing_of_its_error(tmp_path: Path) -> None:
    earlier = Earlier.read(written(tmp_path, report()))
    rows = {"step": Samples(((1.0, 1.0),) * 20)}
    (found,) = earlier.verdicts(told(rows, {"steps": 1.0}))
    assert (found.word, found.error) == ("same", "")


def test_a_row_that_nobody_could_compare_before_has_no_error_that_grew(tmp_path: Path) -> None:
    earlier = Earlier.read(written(tmp_path, {**report(), "errors": {}, "picture_psnr": None}))
    rows = {"picture": Samples(((1.0,),) * 20)}
    (found,) = earlier.verdicts(told(rows, {"steps": 1.0}, 10.0))
    assert (found.word, found.error) == ("faster", "")


def test_other_numbers_of_requests_are_said_where_both_were_asked_for(tmp_path: Path) -> None:
    then, now = report(), report()
    path = {"server": "one", "limit": 1.0, "points": [{"rate": 1.0, "waits": [[1.0] * 6] * 6}]}
    then["served"], now["served"] = [{"requests": 16}, {"requests": 16}], [{"requests": 12}]
    then["arrivals"] = [path]
    earlier = Earlier.read(written(tmp_path, then))
    for arrivals, lines in (
        ([], ()),
        ([path], ()),
        (
            [{**path, "points": [{"rate": 1.0, "waits": [[1.0] * 2] * 6}]}],
            ("requests of each rate: 6 paths of 6, now 6 paths of 2",),
        ),
    ):
        now["arrivals"] = arrivals
        found = earlier.differences(cast("Report", SimpleNamespace(to_json=lambda: now)))
        assert found == ("requests served together: 16, now 12", *lines)
    nothing = Earlier.read(written(tmp_path, report()))
    assert nothing.differences(cast("Report", SimpleNamespace(to_json=lambda: now))) == ()
