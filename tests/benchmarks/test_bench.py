"""`latentrt bench` over a tiny bundle: that what it says is whole and fits, never how fast."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import run
from tests.cli.outcome import Run

from latentrt.benchmarks import machine
from latentrt.benchmarks.latency import bench, limits
from latentrt.benchmarks.latency.bench import Plan, measure
from latentrt.benchmarks.latency.ceilings import Ceilings, ceilings
from latentrt.benchmarks.latency.nvml import GpuState, GpuWatch
from latentrt.benchmarks.latency.stopwatch import Stopwatch
from latentrt.benchmarks.latency.subject import Subject
from latentrt.benchmarks.peers import turns
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, BundleError, EngineError
from latentrt.runtime import Guidance, Pipeline, Request, Sampling

__all__ = ["run"]  # the fixture

Bundles = Callable[[str], Path]

ROOT = Path(__file__).parents[2]
QUICK = ("--runs", 2, "--limit", 0, "--steps", 2, "--batch", "1,2", "--requests", 2)
REQUEST = Request("a red circle", seed=1, sampling=Sampling(steps=3), guidance=Guidance(5.0))


def silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def subject(bundle: Bundles) -> Subject:
    request = REQUEST.with_values(sampling=Sampling(steps=1))
    return Subject(bundle("heads"), "onnxruntime", "fp32", {}, {}, request)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ceiling takes seconds, of large matrices; nothing here is about its height."""
    monkeypatch.setattr(limits, "ceilings_apart", partial(ceilings, sizes=(256,), repeats=2))


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
    assert [(c["cache"], c["hit"]) for c in reports[0]["cold"]] == [
        ("empty", False),
        ("filled", True),
    ]
    assert [c["problem"] for c in reports[0]["cold"]] == ["", ""]
    assert reports[0]["memory"]["peak"] > 1e7
    assert set(reports[0]["limits"]) == {"text_encoder", "unet", "vae_decoder"}
    assert list(reports[0]["ceilings"]) == ["onnxruntime fp32"]
    assert [row["batch"] for row in reports[0]["served"]] == [None, 1, 2]
    # Of the same seed and engine, but of calls of other sizes: rounding of fp32.
    assert all(row["apart"] < 1e-4 for row in reports[0]["served"])
    assert [len(row["seconds"]) for row in reports[0]["served"]] == [6, 6, 6]
    assert {row["requests"] for row in reports[0]["served"]} == {2}
    assert [len(each["points"][0]["waits"]) for each in reports[0]["arrivals"]] == [2, 2]
    # Two pictures of two guided steps.
    assert reports[0]["rows"]["unet call"]["count"] == 4
    assert [len(run) for run in reports[0]["runs"]["step"]] == [2, 2]
    assert not reports[0]["rows"]["picture"]["stable"]
    assert 0 < reports[0]["own_share"] < 1
    # fp32 rounding, as the tolerances of components have it.
    assert 0 < reports[0]["errors"]["unet"] < 1e-5
    assert [note for note in reports[0]["notes"] if "of its limit" not in note] == []
    compared = {each["row"] for each in reports[1]["verdicts"]}
    # Two runs say nothing, whatever their interval; six repetitions of serving may.
    assert {each["runs"] for each in reports[1]["verdicts"]} == {2, 6}
    assert {each["word"] for each in reports[1]["verdicts"] if each["runs"] == 2} == {"unsure"}
    # A shared machine may be another by itself.
    differences = reports[1]["differences"]
    assert [line for line in differences if not line.startswith("the machine's own")] == []
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
    lines = done.out.splitlines()
    for row in ("picture", "text", "step", "decode", "own", "unet call", "batch 2", "ceiling"):
        assert any(line.startswith(row) for line in lines), row
    # Beside a call its error, in fp32 of the order of 1e-7; below, what was held in memory.
    (call,) = (line for line in lines if line.startswith("unet call"))
    assert re.search(r" \d\.\de-0[67] ", call)
    assert any(re.fullmatch(r"at its peak +\d\.\d\d GB", line) for line in lines)
    assert any(line.endswith("a batch is U-Net rows, 2 a picture") for line in lines)
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
    monkeypatch.setattr(turns, "_TURN", 0.0)
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

    def failing(*_: object, **__: object) -> None:
        raise EngineError("the reference of the contest failed")

    monkeypatch.setattr("latentrt.cli.bench.against", failing)
    done = run(*common, *some)
    assert done.status == 0, done.err
    report = json.loads(done.out)
    jsonschema.validate(report, schema)
    assert report["against"] is None
    assert "no contest: the reference of the contest failed" in report["notes"]


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
    with (
        Stopwatch(Bundle.open(bundle("heads")), "onnxruntime", "fp32") as watched,
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


def test_a_gpu_that_no_engine_runs_on_is_not_in_the_report(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: dict[str, Any] = {field.name: None for field in fields(GpuState)}
    state = GpuState(**nothing | {"name": "NVIDIA L4", "readings": 1})
    monkeypatch.setattr(GpuWatch, "state", property(lambda _: state))
    plan = Plan(runs=1, limit=0, cold=False, ceilings=False, batches=())
    assert measure(subject(bundle), plan, silent).gpu is None
    monkeypatch.setattr(bench, "backend", lambda name: SimpleNamespace(device="cuda"))
    assert measure(subject(bundle), plan, silent).gpu == state


def test_without_goldens_the_report_says_that_errors_are_not_known(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(runs=1, limit=0.0, cold=False, ceilings=False, batches=())
    real = Bundle.open(bundle("heads"))
    files = {n: f for n, f in real.manifest.files.items() if n != "golden.safetensors"}
    bare = Bundle(real.path, replace(real.manifest, files=files))
    monkeypatch.setattr(Bundle, "open", lambda *_, **__: bare)
    report = measure(subject(bundle), plan, silent)
    assert (report.errors, report.picture_psnr) == ({}, None)
    assert report.notes == ("no goldens in this bundle: how far off the engines are is not known",)
    assert (report.cold, report.limits, report.served, report.arrivals) == ((), {}, (), ())


def test_what_goes_wrong_after_the_warm_pictures_is_a_note(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: Exception) -> Callable[..., Any]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    monkeypatch.setattr(bench, "serve", fails(EngineError("no room for eight rows")))
    monkeypatch.setattr(bench, "curves", fails(EngineError("the device is gone")))
    monkeypatch.setattr(limits, "ceilings_apart", fails(BuildFailed("products: refused")))
    monkeypatch.setattr(
        bench, "compare", fails(BundleError("x", "has goldens that are not finite"))
    )
    plan = Plan(runs=1, limit=0.0, cold=False, batches=(8,), requests=1, arrivals=1)
    report = measure(subject(bundle), plan, silent)
    assert len(report.rows["picture"].pictures) == 1
    assert report.notes == (
        "no ceiling of onnxruntime fp32: products: refused",
        "served together: no room for eight rows",
        "arriving at random: the device is gone",
        "how far off the engines are is not known: x: has goldens that are not finite",
    )
    assert (report.served, report.arrivals, report.ceilings, report.limits) == ((), (), {}, {})


def test_what_there_is_no_time_for_is_left_out_and_said(bundle: Bundles) -> None:
    heard: list[str] = []
    plan = Plan(runs=1, limit=0.0, cold=False, ceilings=False, batches=(1, 2))
    report = measure(subject(bundle), plan, lambda stage, *_: heard.append(stage))
    assert report.served == ()
    (note,) = report.notes
    assert note.startswith("served together: no batch of 1, 2, to stay within --limit 0")
    assert set(heard) == {"warm"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--runs", 0, "runs: expected at least 1, got 0"),
        ("--requests", 0, "requests: expected at least 1, got 0"),
        ("--arrivals", -1, "arrivals: expected at least 0, got -1"),
        ("--limit", -1, "limit: expected at least 0 seconds, got -1"),
        ("--limit", "nan", "limit: expected at least 0 seconds, got nan"),
        ("--batch", "1,0", "batch: expected numbers of at least 1, or 0 alone, got 1,0"),
        ("--plot", "full", "plot: expected a file, got the folder full"),
        ("--html", "file/page.html", "html: expected a place that can be written"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(
    run: Run,
    bundle: Bundles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: object,
    message: str,
) -> None:
    path = bundle("heads").resolve()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured"))
    done = run("bench", path, option, value)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize("option", ["--plot", "--html"])
def test_without_matplotlib_a_plot_is_refused_before_anything_is_measured(
    run: Run, bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured"))
    done = run("bench", bundle("heads"), option, tmp_path / "a.file")
    assert (done.status, done.out) == (1, "")
    assert "matplotlib is not installed; pip install 'latentrt[bench]'" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_machine_has_the_packages_and_flags_that_decide_its_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"onnxruntime-gpu": "1.31", "tensorrt": "11.0", "transformers": "5.23"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(machine, "version", version)
    monkeypatch.setattr(machine, "_cpu_info", lambda: {"flags": "fpu avx2 avx512_vnni amx_int8"})
    here = machine.Machine.here()
    assert here.packages == installed
    assert here.flags == ("avx2", "avx512_vnni", "amx_int8")
    # ARM's word for them.
    monkeypatch.setattr(machine, "_cpu_info", lambda: {"Features": "fp asimd i8mm sve2 bf16"})
    assert machine.Machine.here().flags == ("asimd", "bf16", "i8mm", "sve2")


def test_an_interrupt_after_the_warm_pictures_ends_the_report_with_what_there_is(
    run: Run, bundle: Bundles, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "serve", interrupt)
    monkeypatch.setattr(bench, "curves", lambda *_, **__: pytest.fail("measured"))
    done = run("bench", bundle("heads"), "--engine", "onnxruntime", *QUICK, "--no-cold",
               "--no-ceilings", "--arrivals", 2, "--json")  # fmt: skip
    assert done.status == 130
    report = json.loads(done.out)
    jsonschema.validate(report, schema)
    assert report["interrupted"]
    assert report["rows"]["picture"]["pictures"] == 2
    assert (report["served"], report["errors"]) == ([], {})
    assert [note for note in report["notes"] if note.startswith("served together: interrupted")]


def test_a_call_that_was_faster_than_its_limit_is_a_note(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = Ceilings(1.0, 1e30), Ceilings(2.0, None)
    moments = iter([low, high])
    monkeypatch.setattr(limits, "ceilings_apart", lambda *_: next(moments))
    plan = Plan(runs=1, limit=0.0, cold=False, batches=())
    report = measure(subject(bundle), plan, silent)
    # One before the pictures, one after them, and the greater of each.
    assert report.ceilings == {"onnxruntime fp32": Ceilings(2.0, 1e30)}
    assert all(limit.share > 1 for limit in report.limits.values())
    assert [note.split(":")[0] for note in report.notes] == [
        "text_encoder call",
        "unet call",
        "vae_decoder call",
    ]
