"""`latentrt bench` over a tiny bundle: that what it says is whole and fits, never how fast."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import run
from tests.cli.outcome import Run

from latentrt.benchmarks import nvml
from latentrt.benchmarks.arrivals import Point, goodput, point
from latentrt.benchmarks.bench import Plan, measure
from latentrt.benchmarks.stopwatch import Stopwatch
from latentrt.benchmarks.subject import Subject
from latentrt.bundle.bundle import Bundle
from latentrt.engines.engine import Options
from latentrt.runtime import Guidance, Pipeline, Request, Sampling

__all__ = ["run"]  # the fixture

Bundles = Callable[[str], Path]

ROOT = Path(__file__).parents[2]
QUICK = ("--runs", 2, "--limit", 0, "--steps", 2, "--batch", "1,2", "--requests", 2)
REQUEST = Request("a red circle", seed=1, sampling=Sampling(steps=3), guidance=Guidance(5.0))


def silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


@pytest.fixture(scope="session")
def schema() -> Any:
    return json.loads((ROOT / "docs" / "bench.schema.json").read_text())


def test_the_report_is_one_object_of_its_schema(
    run: Run, bundle: Bundles, schema: Any, tmp_path: Path
) -> None:
    old, page, picture = tmp_path / "old.json", tmp_path / "a.html", tmp_path / "a.png"
    common = ("bench", bundle("heads"), "--engine", "onnxruntime", *QUICK)
    first = run(*common, "--arrivals", 2, "--json")
    assert first.status == 0, first.err
    old.write_text(first.out)
    later = run(*common, "--no-cold", "--no-ceilings", "--json", "--compare", old,
                "--html", page, "--plot", picture)  # fmt: skip
    assert later.status == 0, later.err
    reports: list[Any] = [json.loads(each.out) for each in (first, later)]
    for report in reports:
        jsonschema.validate(report, schema)
    assert [c["hit"] for c in reports[0]["cold"]] == [False, True]
    assert [c["problem"] for c in reports[0]["cold"]] == ["", ""]
    assert reports[0]["memory"]["peak"] > 1e7
    assert set(reports[0]["limits"]) == {"text_encoder", "unet", "vae_decoder"}
    assert list(reports[0]["ceilings"]) == ["onnxruntime fp32"]
    assert [row["batch"] for row in reports[0]["served"]] == [None, 1, 2]
    assert len(reports[0]["arrivals"]) == 2
    # Two pictures of two guided steps.
    assert reports[0]["rows"]["unet call"]["count"] == 4
    assert not reports[0]["rows"]["picture"]["stable"]
    assert 0 < reports[0]["own_share"] < 1
    # fp32 rounding, as the tolerances of components have it.
    assert 0 < reports[0]["errors"]["unet"] < 1e-5
    assert reports[0]["notes"] == []
    compared = {each["row"] for each in reports[1]["verdicts"]}
    assert {"picture", "step", "own", "served, batch 2"} <= compared
    with Image.open(picture) as opened:
        assert opened.format == "PNG"
    text = page.read_text()
    # Nothing that a browser would fetch.
    assert re.findall(r'(?:src|href)="(?!#)|url\((?!#)|@import', text) == []
    assert "<svg" in text
    assert "unet call" in text


def test_the_table_says_what_was_measured_and_what_is_unstable(run: Run, bundle: Bundles) -> None:
    done = run("bench", bundle("heads"), "--engine", "openvino", *QUICK, "--no-cold")
    assert done.status == 0, done.err
    assert "openvino" in done.out.splitlines()[0]
    for row in ("picture", "text", "step", "decode", "own", "unet call", "batch 2", "ceiling"):
        assert any(line.startswith(row) for line in done.out.splitlines()), row
    assert "unstable" in done.out
    assert "away from PyTorch fp32" in done.out


def test_others_draw_in_turns_and_an_unknown_one_is_named_first(
    run: Run,
    bundle: Bundles,
    checkpoint: Bundles,
    schema: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # what it prepares lies under build/
    common = ("bench", bundle("heads"), "--engine", "onnxruntime", "--no-cold", "--no-ceilings",
              "--runs", 1, "--limit", 0, "--steps", 1, "--batch", 0, "--json")  # fmt: skip
    done = run(*common, "--against", "somebody")
    assert (done.status, done.out) == (2, "")
    assert "peer: expected one of diffusers-fp32" in done.err
    some = ("--against", "diffusers-fp32", "--rounds", 1, "--checkpoint", checkpoint("heads"))
    done = run(*common, *some)
    assert done.status == 0, done.err
    report = json.loads(done.out)
    jsonschema.validate(report, schema)
    rows = {row["name"]: row for row in report["against"]["rows"]}
    assert report["against"]["reference"] == "diffusers-fp32"
    for engine in ("onnxruntime", "openvino"):
        row = rows[f"latentrt-{engine}-fp32"]
        # fp32 against fp32, 55 dB as everywhere; None: equal to the last bit of a colour.
        assert row["problem"] == ""
        assert row["psnr"] is None or row["psnr"] > 55


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{}", "is no report of `latentrt bench`"), (b"[", "is not JSON"), (None, "No such file")],
)
def test_an_earlier_report_that_is_none_is_named_before_anything_is_measured(
    run: Run, bundle: Bundles, tmp_path: Path, content: bytes | None, message: str
) -> None:
    old = tmp_path / "old.json"
    if content is not None:
        old.write_bytes(content)
    done = run("bench", bundle("heads"), "--compare", old)
    assert (done.status, done.out) == (2, "")
    assert str(old) in done.err
    assert message in done.err


def test_a_watched_pipeline_draws_the_same_picture_and_its_parts_add_up(bundle: Bundles) -> None:
    options = Options(precision="fp32")
    with (
        Stopwatch(Bundle.open(bundle("heads")), "onnxruntime", options, {}) as watched,
        Pipeline.open(bundle("heads"), engine="onnxruntime", precision="fp32") as plain,
    ):
        watched.picture(REQUEST)
        stages, result = watched.picture(REQUEST)
        assert np.array_equal(result.latents, plain(REQUEST).latents)
    assert len(stages.steps) == 3
    # A guided run: one U-Net call of two rows a step; the text of two prompts; one decoding.
    assert {n: len(s) for n, s in stages.calls.items()} == {
        "text_encoder": 2,
        "unet": 3,
        "vae_decoder": 1,
    }
    inside = sum(map(sum, stages.calls.values()))
    assert stages.own == pytest.approx(stages.total - inside)
    assert stages.text + sum(stages.steps) + stages.decode <= stages.total


def test_without_goldens_the_report_says_that_errors_are_not_known(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = REQUEST.with_values(sampling=Sampling(steps=1))
    subject = Subject(bundle("heads"), "onnxruntime", Options(precision="fp32"), {}, request)
    plan = Plan(runs=1, limit=0.0, cold=False, ceilings=False, batches=())
    real = Bundle.open(bundle("heads"))
    files = {n: f for n, f in real.manifest.files.items() if n != "golden.safetensors"}
    bare = Bundle(real.path, replace(real.manifest, files=files))
    monkeypatch.setattr(Bundle, "open", lambda *_, **__: bare)
    report = measure(subject, plan, silent)
    assert (report.errors, report.picture_psnr) == ({}, None)
    assert report.notes == ("no goldens in this bundle: how far off the engines are is not known",)
    assert (report.cold, report.limits, report.served, report.arrivals) == ((), {}, (), ())


def test_goodput_is_where_the_wait_reaches_its_limit() -> None:
    points = [Point(1.0, 0.1, 0.2), Point(2.0, 0.2, 0.4), Point(3.0, 0.9, 1.0)]
    assert goodput(points, 0.7) == pytest.approx(2.5)
    assert goodput(points, 1.0) is None
    assert goodput(points, 0.1) == pytest.approx(0.5)


def test_every_arrival_is_served_once_with_its_own_seed() -> None:
    served: list[int | None] = []
    found = point(lambda request: served.append(request.seed), REQUEST, rate=1000.0, count=9)
    assert sorted(seed for seed in served if seed is not None) == list(range(9))
    assert 0 < found.p50 <= found.p95


def overheated_gpu() -> SimpleNamespace:
    """NVML as its package has it, of a GPU that is too hot."""
    answers: dict[str, Any] = {
        "Init": None,
        "Shutdown": None,
        "DeviceGetHandleByIndex": 0,
        "DeviceGetName": b"A GPU",
        "SystemGetDriverVersion": "580.1",
        "DeviceGetClockInfo": 1500,
        "DeviceGetPowerUsage": 250_500,
        "DeviceGetTemperature": 88,
        "DeviceGetMemoryInfo": SimpleNamespace(used=5_000),
        "DeviceGetComputeRunningProcesses": [SimpleNamespace(pid=-1, usedGpuMemory=7)],
        "DeviceGetCurrentClocksThrottleReasons": 64 + 4,
    }
    bits = {"None": 0, "GpuIdle": 1, "SwPowerCap": 4, "HwThermalSlowdown": 64, "All": 69}
    return SimpleNamespace(
        NVMLError=RuntimeError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        **{f"nvml{name}": (lambda *_, a=answer: a) for name, answer in answers.items()},
        **{f"nvmlClocksThrottleReason{name}": bit for name, bit in bits.items()},
    )


def test_a_gpu_says_why_it_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml.importlib, "import_module", lambda _: overheated_gpu())
    state = nvml.gpu_state()
    assert state is not None
    assert (state.name, state.power, state.memory_own) == ("A GPU", 250.5, 0)
    assert state.throttle == ("HwThermalSlowdown", "SwPowerCap")
    json.dumps(state.to_json())
