"""What peers need before they can run, what is refused at once, and how results are shown."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.peers import __main__ as command
from latentrt.benchmarks.peers import measure, registry
from latentrt.benchmarks.peers.measure import check, processes_at_once
from latentrt.benchmarks.peers.participants import Participant, Settings, participants
from latentrt.benchmarks.peers.registry import PEERS, Peer, exported, missing, selected
from latentrt.benchmarks.peers.results import PeerResult, Results
from latentrt.benchmarks.samples import Ratio, Samples
from latentrt.bundle.errors import BundleError, EngineError, InputError, Unavailable
from latentrt.engines.openvino import backend as openvino
from latentrt.runtime import Size

Bundles = Callable[[str], Path]
OURS = "latentrt_engines.py"
SCRIPTS = sorted(path for path in registry.SCRIPTS.glob("*.py") if path.name != OURS)


def peer(name: str) -> Peer:
    return next(each for each in PEERS if each.name == name)


def test_a_peer_without_its_environment_says_what_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "ENVIRONMENTS", tmp_path)
    lacks = missing(peer("optimum-onnx-fp32"))
    assert lacks is not None
    assert lacks.remedy == "make peers ARGS=optimum-onnx"
    (tmp_path / "optimum-onnx").mkdir()
    (tmp_path / "optimum-onnx" / ".stamp").touch()
    assert missing(peer("optimum-onnx-fp32")) is None


def test_a_peer_without_its_libraries_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(peer("diffusers-fp32")) is None
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "diffusers" else name)
    lacks = missing(peer("diffusers-fp32"))
    assert str(lacks) == "not installed: diffusers; pip install 'latentrt[bench]'"


def test_openvino_genai_in_bf16_is_missing_on_a_cpu_without_bf16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "ENVIRONMENTS", tmp_path)
    (tmp_path / "openvino-genai").mkdir()
    (tmp_path / "openvino-genai" / ".stamp").touch()
    monkeypatch.setattr(registry, "computes", lambda precision, _: precision != "bf16")
    lacks = missing(peer("openvino-genai-bf16"))
    assert str(lacks) == "this CPU does not compute in bf16; use openvino-genai-fp32"
    assert missing(peer("openvino-genai-fp32")) is None


def test_peers_run_only_from_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "SCRIPTS", tmp_path)
    lacks = missing(peer("diffusers-fp32"))
    assert lacks is not None
    assert lacks.remedy == "run from a checkout of latentrt"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_peers_script_imports_nothing_of_latentrt(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    assert names
    assert not [name for name in names if name.startswith("latentrt")]


def test_every_peer_has_a_script_and_pinned_versions() -> None:
    assert {each.path for each in PEERS} < set(SCRIPTS)
    pinned = {
        name: (registry.SCRIPTS / f"{name}.txt").read_text().split("\n")
        for name in {each.environment for each in PEERS} - {""}
    }
    assert {"optimum-onnx==0.1.0", "diffusers==0.39.0"} <= set(pinned["optimum-onnx"])
    assert {"openvino-genai==2026.4.1.0", "optimum-intel==2.2.0"} <= set(pinned["openvino-genai"])


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment whose exporter writes its arguments; gives the exporter's file."""
    monkeypatch.setattr(registry, "ENVIRONMENTS", tmp_path / "environments")
    program = tmp_path / "environments" / "optimum-onnx" / "bin" / "optimum-cli"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$last/asked"\n')
    program.chmod(0o755)
    return program


def test_an_exported_model_is_kept_by_the_checkpoints_content(
    exporter: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "weights").write_text("1")
    made = exported(peer("optimum-onnx-fp32"), checkpoint, tmp_path / "made")
    assert made is not None
    asked = (made / "asked").read_text()
    assert asked.startswith(f"export onnx --task text-to-image --model {checkpoint} ")
    exporter.unlink()
    assert exported(peer("optimum-onnx-fp32"), checkpoint, tmp_path / "made") == made
    (checkpoint / "weights").write_text("2")
    with pytest.raises(EngineError, match=r"export failed: .*optimum-cli"):
        exported(peer("optimum-onnx-fp32"), checkpoint, tmp_path / "made")
    assert exported(peer("diffusers-fp32"), checkpoint, tmp_path) is None


def test_a_failing_exporter_is_an_error_with_its_last_line_and_leaves_nothing(
    exporter: Path, tmp_path: Path
) -> None:
    exporter.write_text("#!/bin/sh\necho memory ran out >&2\nexit 3\n")
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(EngineError, match="export failed: memory ran out"):
        exported(peer("optimum-onnx-fp32"), tmp_path / "checkpoint", tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_a_peer_named_twice_takes_part_once_and_the_reference_always() -> None:
    names = ["diffusers-bf16", "diffusers-fp32", "diffusers-bf16"]
    assert [each.name for each in selected(names, "cpu")] == ["diffusers-fp32", "diffusers-bf16"]


@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_takes_part_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundles, tmp_path: Path, bf16: bool
) -> None:
    monkeypatch.setattr(openvino, "computes_bf16", lambda: bf16)
    assert any(each.precision == "bf16" for each in selected(None, "cpu")) == bf16
    assert {each.precision for each in selected(None, "cuda")} == {"fp16"}
    spec = Settings(Size(64, 64)).spec(tmp_path, tmp_path)
    peers = selected(["diffusers-fp32"], "cpu")
    able, absent = participants(bundle("heads"), peers, spec, tmp_path, lambda _: None)
    ours = ["latentrt-onnxruntime-fp32", "latentrt-openvino-fp32", "latentrt-openvino-bf16"]
    assert [each.name for each in able] == ["diffusers-fp32", *ours[: 3 if bf16 else 2]]
    assert absent == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rounds": 0}, "rounds: expected at least 1, got 0"),
        ({"at_once": 1}, "at_once: expected at least 2, got 1"),
        ({"names": ["diffusers-cuda-fp16"]}, r"peer: expected one of diffusers-fp32, .*"),
        ({"device": "tpu"}, "device: expected one of cpu, cuda, got 'tpu'"),
        ({"checkpoint": Path("nowhere")}, "checkpoint: expected the diffusers folder"),
    ],
)
def test_an_impossible_measurement_is_refused_at_once(
    bundle: Bundles, checkpoint: Bundles, more: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"checkpoint": checkpoint("heads")}
    check(bundle("heads"), **given)
    with pytest.raises(InputError, match=message):
        check(bundle("heads"), **{**given, **more})


def test_a_bundle_that_peers_cannot_load_is_refused(
    bundle: Bundles, checkpoint: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="which peers load, got stable-diffusion-xl"):
        check(bundle("xl"), checkpoint("xl"))
    with pytest.raises(BundleError):
        check(tmp_path, checkpoint("heads"))
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    with pytest.raises(Unavailable, match="diffusers-fp32, the reference: not installed"):
        check(bundle("heads"), checkpoint("heads"))


@pytest.mark.parametrize(("free", "places"), [(36e9, 3), (24e9, 2), (1e9, 2), (None, 2)])
def test_as_many_processes_run_at_once_as_memory_has_room_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float | None, places: int
) -> None:
    # Of SD 1.5's size, 4.3 GB in float32, the largest process was seen to need 11.9 GB.
    (tmp_path / "unet").mkdir()
    with open(tmp_path / "unet" / "model.safetensors", "wb") as file:
        file.truncate(4_300_000_000)  # a sparse file
    monkeypatch.setattr(measure, "available_memory", lambda: free)
    assert processes_at_once(tmp_path) == places


def results(**more: Any) -> Results:
    slow, fast = Samples.of([2.0, 2.0]), Samples.of([1.0, 1.0])
    rows = (
        PeerResult("r", "fp32", samples=slow, ratio=Ratio.of(slow, slow), start=1.0),
        PeerResult("latentrt-x", "fp32", samples=fast, ratio=Ratio.of(slow, fast), psnr=60.0),
        PeerResult("stray", "bf16", samples=fast, ratio=Ratio.of(slow, fast), psnr=20.0),
        PeerResult("gone", "fp32", problem="not installed", remedy="pip install it"),
    )
    machine = {"processor": "A CPU"}
    return Results("r", rows, (("r", "latentrt-x"),), 2, {}, "somebody's", machine, **more)


def test_results_are_a_table_the_fastest_first_with_remarks_below() -> None:
    lines = str(results(busy=0.5, interrupted=True)).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["latentrt-x", "stray", "r"]
    assert "2.00 (2.00 to 2.00)  faster" in lines[1]
    assert lines[4:] == [
        "stray: drew another image, 20.0 dB from the reference's",
        "gone: not installed; pip install it",
        "interrupted: later groups were skipped",
        "disturbed: other processes used 50% of the cores; measure again",
    ]


def test_the_command_writes_json_and_says_errors_in_one_line(
    bundle: Bundles, checkpoint: Bundles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = ["--bundle", bundle("heads"), "--checkpoint", checkpoint("heads"), "--size", "64x64"]
    path = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["peers", *map(str, given), "--json", str(path)])
    monkeypatch.setattr(command, "measure", lambda *_, **__: results())
    command.main()
    assert '"schema": "latentrt-peers-1"' in path.read_text()
    monkeypatch.setattr(command, "measure", lambda *_, **__: replace(results(), interrupted=True))
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 130
    monkeypatch.setattr(sys, "argv", ["peers", *map(str, given), "--size", "x"])
    with pytest.raises(SystemExit, match="error: size: expected WIDTHxHEIGHT"):
        command.main()


def test_a_spec_file_and_its_command_are_what_a_script_reads(tmp_path: Path) -> None:
    one = Participant("one", "fp32", ("python", "script"), {"steps": 3})
    assert one.arguments(tmp_path) == ("python", "script", str(tmp_path / "one.json"), "--serve")
    assert (tmp_path / "one.json").read_text() == '{"steps": 3}'
