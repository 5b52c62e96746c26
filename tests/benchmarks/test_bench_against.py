"""`latentrt bench --against`: on which device others draw, and that the report is never lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.benchmarks.reported import REPORT
from tests.cli.conftest import run
from tests.cli.outcome import Run

from latentrt.benchmarks.latency import bench
from latentrt.benchmarks.latency.subject import Subject
from latentrt.benchmarks.peers import contest
from latentrt.benchmarks.peers.standings import Ratio, Row, Standings
from latentrt.bundle.errors import InputError
from latentrt.cli import bench as command
from latentrt.cli.bench import device_of
from latentrt.engines.registry import BACKENDS

__all__ = ["run"]  # the fixture

Bundles = Callable[[str], Path]

CUDA = {
    "tensorrt",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "onnxruntime-tensorrt-rtx",
}


@pytest.mark.parametrize("engine", BACKENDS)
def test_others_draw_where_the_unets_engine_does_and_no_peer_has_intels(engine: str) -> None:
    engines = {"text_encoder": "onnxruntime", "unet": engine}
    if engine in ("openvino-gpu", "openvino-npu"):
        with pytest.raises(InputError, match=f"an NVIDIA GPU, .* got {engine}"):
            device_of(engines)
    else:
        assert device_of(engines) == ("cuda" if engine in CUDA else "cpu")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing is measured: the report is there, of TensorRT; what `check` is given."""

    @contextmanager
    def opened(_: Subject) -> Generator[Any]:
        yield SimpleNamespace(engines=REPORT.engines)

    given: list[Any] = []
    monkeypatch.setattr(Subject, "open", opened)
    monkeypatch.setattr(bench, "measure", lambda *_: REPORT)
    monkeypatch.setattr(contest, "check", lambda *_, **more: given.append(more))
    return given


def test_the_standings_of_an_interrupted_contest_are_in_the_report(
    run: Run, bundle: Bundles, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def against(*given: Any, **_: object) -> Standings:
        row = Row("r", "fp32", seconds=(1.0,), ratio=Ratio(1.0, 1.0, 1.0), start=1.0)
        gone = Row("b", "fp32", problem="it was interrupted")
        settings = given[2].to_json()
        groups = ((row.name, "b"),)
        rows = (row, gone)
        return Standings("r", rows, groups, 1, 0, settings, "", {}, {}, interrupted=True)

    monkeypatch.setattr(command, "against", against)
    done = run("bench", bundle("heads"), "--against", "all", "--json")
    assert done.status == 130
    found = json.loads(done.out)
    assert found["interrupted"]
    assert "in turns with others: interrupted" in " ".join(found["notes"])
    assert [row["problem"] for row in found["against"]["rows"]] == ["", "it was interrupted"]


def test_the_device_of_the_engines_is_checked_and_contested_and_called_unverified(
    run: Run, bundle: Bundles, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def against(*given: Any, **_: object) -> Standings:
        row = Row("r", "fp16", seconds=(1.0,), ratio=Ratio(1.0, 1.0, 1.0), start=1.0)
        settings = given[2].to_json()
        return Standings(row.name, (row,), ((row.name,),), 1, 0, settings, "", {}, {})

    monkeypatch.setattr(command, "against", against)
    done = run("bench", bundle("heads"), "--engine", "tensorrt", "--against", "all")
    assert done.status == 0, done.err
    assert measured == [{"device": "cuda", "rounds": 10}]
    assert "in turns with others on cuda (unverified)" in done.out


@pytest.mark.parametrize(
    ("error", "status", "note"),
    [
        (OSError(28, "No space left on device"), 0, "No space left on device"),
        (MemoryError(), 0, "MemoryError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_the_report_is_out_whatever_ends_the_contest(
    run: Run,
    bundle: Bundles,
    measured: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    note: str,
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    page = tmp_path / "a.html"
    monkeypatch.setattr(command, "against", failing)
    done = run("bench", bundle("heads"), "--against", "all", "--html", page, "--json")
    assert done.status == status
    found = json.loads(done.out)
    assert found["rows"]["picture"]["p50"] == 2.0
    assert any(line.startswith("no contest: ") and note in line for line in found["notes"])
    assert page.is_file()
    assert len(measured) == 1
