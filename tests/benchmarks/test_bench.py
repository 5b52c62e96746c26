"""`latentrt bench` over a tiny bundle: that its report is whole and right, never how fast."""

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
from referencing import Registry, Resource
from tests.benchmarks.reported import REPORT
from tests.cli.outcome import Run

from latentrt.benchmarks import machine
from latentrt.benchmarks.latency import bench, roofline
from latentrt.benchmarks.latency.bench import BenchPlan, measure
from latentrt.benchmarks.latency.ceilings import Ceilings, ceilings
from latentrt.benchmarks.latency.nvml import GpuState, GpuWatch
from latentrt.benchmarks.latency.timed_pipeline import TimedPipeline
from latentrt.benchmarks.latency.workload import Workload
from latentrt.benchmarks.peers import measure as beside
from latentrt.benchmarks.peers.results import PeerResult, Results
from latentrt.benchmarks.samples import Ratio, Samples
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, BundleError, EngineError
from latentrt.cli import benchmark
from latentrt.runtime import Guidance, Pipeline, Request, Sampling

Bundles = Callable[[str], Path]

DOCS = Path(__file__).parents[2] / "docs"
QUICK = ("--runs", 2, "--steps", 2, "--batch", "2", "--requests", 2)
SHORT = BenchPlan(runs=1, cold=False, ceilings=False, batches=())


def validate(value: Any) -> None:
    """Raise for JSON that is not of docs/bench.schema.json."""
    schemas = {p.name: json.loads(p.read_text()) for p in DOCS.glob("*.schema.json")}
    registry: Any = Registry()
    for name, schema in schemas.items():
        registry = registry.with_resource(name, Resource.from_contents(schema))
    validator = jsonschema.Draft202012Validator(schemas["bench.schema.json"], registry=registry)
    assert [f"{e.json_path}: {e.message[:200]}" for e in validator.iter_errors(value)] == []


def silent(part: str, done: int, total: int) -> None:
    del part, done, total


def workload(bundle: Bundles) -> Workload:
    request = Request("a red circle", seed=1, sampling=Sampling(steps=1), guidance=Guidance(5.0))
    return Workload(bundle("heads"), {"engine": "onnxruntime"}, request)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings take seconds, of large matrices; nothing here is about their height."""
    monkeypatch.setattr(roofline, "ceilings_apart", partial(ceilings, sizes=(128,), repeats=1))


def test_a_report_is_whole_and_a_later_one_is_compared_with_it(
    run: Run, bundle: Bundles, tmp_path: Path
) -> None:
    old, page, plot = tmp_path / "old.json", tmp_path / "a.html", tmp_path / "a.png"
    common = ("bench", bundle("heads"), "--engine", "onnxruntime", "--no-cold", *QUICK, "--json")
    first = run(*common, "--arrivals", 2, "--html", page, "--plot", plot)
    assert first.status == 0, first.err
    old.write_text(first.out)
    report: Any = json.loads(first.out)
    validate(report)
    assert report["memory"]["peak"] > 1e7
    assert set(report["rooflines"]) == {"text_encoder", "unet", "vae_decoder"}
    assert list(report["ceilings"]) == ["onnxruntime fp32"]
    assert [row["name"] for row in report["throughput"]] == ["one at a time", "batch 2"]
    assert {row["server"] for row in report["arrivals"]} == {"one at a time", "batches up to 2"}
    # Two images of two guided steps.
    assert [report["rows"][n]["n"] for n in ("image", "step", "unet call")] == [2, 4, 4]
    assert 0 < report["runtime_share"] < 1
    # fp32 rounding, as the tolerances of components have it.
    assert 0 < report["errors"]["relative"]["unet"] < 1e-5
    assert report["errors"]["psnr"] is None or report["errors"]["psnr"] > 55
    assert [note for note in report["notes"] if "of its roofline" not in note] == []
    with Image.open(plot) as opened:
        assert opened.format == "PNG"
    text = page.read_text()
    assert re.findall(r'(?:src|href)="(?!data:)|url\((?!#)|@import', text) == []
    assert "unet call" in text
    later = run(*common[:-1], "--no-ceilings", "--batch", 0, "--compare", old)
    assert later.status == 0, later.err
    assert "relative to old.json, ratio of medians" in later.out
    lines = [line for line in later.out.splitlines() if line.startswith("unet call")]
    # Once as a row with its error, of the order of 1e-7, once as a ratio.
    assert re.search(r" 4  \d\.\de-0[67]$", lines[0])
    assert re.search(r"(faster|slower|the same)", lines[1])


def test_a_timed_pipeline_draws_the_same_image_and_its_parts_add_up(bundle: Bundles) -> None:
    request = workload(bundle).request.with_values(sampling=Sampling(steps=3))
    with (
        TimedPipeline.open(bundle("heads"), engine="onnxruntime") as timed,
        Pipeline.open(bundle("heads"), engine="onnxruntime") as plain,
    ):
        timed.image(request)
        times, result = timed.image(request)
        assert np.array_equal(result.latents, plain(request).latents)
    assert len(times.steps) == 3
    # A guided run: one U-Net call of two rows a step; the text of two prompts; one decoding.
    calls = {name: len(seconds) for name, seconds in times.calls.items()}
    assert calls == {"text_encoder": 2, "unet": 3, "vae_decoder": 1}
    assert timed.sizes["unet"]["batch"] == 2
    inside = sum(map(sum, times.calls.values()))
    assert times.runtime == pytest.approx(times.total - inside)
    assert times.text + sum(times.steps) + times.decode <= times.total


def test_the_gpu_is_reported_where_an_engine_runs_on_it(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: dict[str, Any] = {field.name: None for field in fields(GpuState)}
    state = GpuState(**nothing | {"name": "NVIDIA L4", "readings": 1})
    monkeypatch.setattr(GpuWatch, "state", property(lambda _: state))
    assert measure(workload(bundle), SHORT, silent).gpu is None
    monkeypatch.setattr(bench, "backend", lambda name: SimpleNamespace(device="cuda"))
    assert measure(workload(bundle), SHORT, silent).gpu == state


def test_without_reference_outputs_errors_are_unknown_and_a_note_says_so(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Bundle.open(bundle("heads"))
    files = {n: f for n, f in real.manifest.files.items() if n != "golden.safetensors"}
    bare = Bundle(real.path, replace(real.manifest, files=files))
    monkeypatch.setattr(Bundle, "open", lambda *_, **__: bare)
    report = measure(workload(bundle), SHORT, silent)
    assert (report.errors.relative, report.errors.psnr) == ({}, None)
    assert report.notes == ("errors: unknown, the bundle has no reference outputs of PyTorch",)


def test_a_failure_after_the_warm_images_is_a_note_and_an_interrupt_ends_the_report(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: BaseException) -> Callable[..., Any]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    monkeypatch.setattr(bench, "throughput", fails(EngineError("no room for eight rows")))
    monkeypatch.setattr(bench, "arrivals", fails(EngineError("the device is gone")))
    monkeypatch.setattr(roofline, "ceilings_apart", fails(BuildFailed("products: refused")))
    monkeypatch.setattr(
        bench, "compare", fails(BundleError("x", "has outputs that are not finite"))
    )
    plan = BenchPlan(runs=1, cold=False, batches=(8,), requests=1, arrivals=1)
    report = measure(workload(bundle), plan, silent)
    assert len(report.rows["image"].seconds) == 1
    assert report.notes == (
        "ceilings of onnxruntime fp32: products: refused",
        "throughput: no room for eight rows",
        "arrivals: the device is gone",
        "errors: x: has outputs that are not finite",
    )
    assert not report.interrupted
    monkeypatch.setattr(bench, "throughput", fails(KeyboardInterrupt()))
    report = measure(workload(bundle), plan, silent)
    assert report.interrupted
    assert report.notes[-1] == "throughput: interrupted; later parts were skipped"


def test_an_interrupted_report_is_printed_and_the_status_says_so(
    run: Run, bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "measure", lambda *_: replace(REPORT, interrupted=True))
    done = run("bench", bundle("heads"), "--json")
    assert done.status == 130
    value = json.loads(done.out)
    validate(value)
    assert value["interrupted"]


def test_a_call_above_its_roofline_is_a_note(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "ceilings_apart", lambda *_: Ceilings(1.0, None))
    plan = BenchPlan(runs=1, cold=False, batches=())
    report = measure(workload(bundle), plan, silent)
    assert all(each.share > 1 for each in report.rooflines.values())
    calls = ["text_encoder call", "unet call", "vae_decoder call"]
    assert [note.split(":")[0] for note in report.notes] == calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--runs", 0), "runs: expected at least 1, got 0"),
        (("--requests", 0), "requests: expected at least 1, got 0"),
        (("--arrivals", -1), "arrivals: expected at least 0, got -1"),
        (("--limit", "nan"), "limit: expected at least 0 seconds, got nan"),
        (("--batch", "1,0"), "batch: expected numbers of at least 1, or 0 alone, got 1,0"),
        (("--steps", "10,0"), "steps: expected numbers of at least 1, got 0"),
        (("--plot", "full"), "plot: expected a file, got the folder full"),
        (("--html", "file/page.html"), "html: expected a place that can be written"),
        (("--against", "somebody"), "peer: expected one of diffusers-fp32"),
        (("--against", "all"), "checkpoint: expected the diffusers folder"),
        (("--steps", "1,2", "--against", "all"), "against: expected one engine, one size"),
        (("--size", "64x64,8x8", "--compare", "x"), "compare: expected one engine, one size"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_measured(
    run: Run,
    bundle: Bundles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    message: str,
) -> None:
    path = bundle("heads").resolve()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("measured"))
    done = run("bench", path, *options)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_without_matplotlib_a_plot_is_refused_before_anything_is_measured(
    run: Run, bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("measured"))
    for option in ("--plot", "--html"):
        done = run("bench", bundle("heads"), option, tmp_path / "a.file")
        assert (done.status, done.out) == (1, "")
        assert "pip install 'latentrt[bench]'" in done.err


def test_peers_draw_the_reports_image_on_its_device(
    run: Run, bundle: Bundles, checkpoint: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def measured(*given: Any, **more: Any) -> Results:
        asked.extend((*given, more))
        one = Samples.of([1.0])
        row = PeerResult("diffusers-fp32", "fp32", samples=one, ratio=Ratio.of(one, one))
        machine = REPORT.machine.to_json()
        return Results(row.name, (row,), ((row.name,),), 1, given[2].to_json(), "heads", machine)

    monkeypatch.setattr(beside, "measure", measured)
    monkeypatch.setattr(benchmark, "measure", lambda *_: REPORT)
    names = ("--against", "diffusers-bf16", "--rounds", 5, "--checkpoint", checkpoint("heads"))
    done = run("bench", bundle("heads"), "--engine", "onnxruntime", "--option", "threads=3", *names)
    assert done.status == 0, done.err
    path, source, settings, given, more = asked
    assert (path, source) == (bundle("heads"), checkpoint("heads"))
    assert (given, more) == (("diffusers-bf16",), {"rounds": 5})
    assert (str(settings.size), settings.steps, settings.threads) == ("64x64", 2, 3)
    assert (settings.sampler, settings.guidance_scale, settings.device) == ("ddim", 7.5, "cpu")
    assert "beside other libraries" in done.out
    done = run("bench", bundle("heads"), "--engine", "onnxruntime", *names, "--json")
    validate(json.loads(done.out))


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
