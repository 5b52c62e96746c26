"""What a peer needs before it can run: an environment, its script, a model in its own format."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from latentrt.benchmarks.peers import peers
from latentrt.benchmarks.peers.peers import PEERS, find_peer, missing, prepare
from latentrt.bundle.errors import EngineError, InputError
from latentrt.engines.openvino import backend as openvino

SCRIPTS = sorted(peers.SCRIPTS.glob("*.py"))


def test_a_peer_whose_environment_is_not_finished_says_what_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    peer = find_peer("optimum-onnx-fp32")
    (tmp_path / "optimum-onnx" / "bin").mkdir(parents=True)
    lacks = missing(peer)
    assert lacks is not None
    assert lacks.remedy == "make peers ARGS=optimum-onnx"
    (tmp_path / "optimum-onnx" / ".stamp").touch()
    assert missing(peer) is None


def test_a_peer_in_our_environment_says_which_of_its_libraries_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert missing(find_peer("diffusers-fp32")) is None
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "diffusers" else name)
    lacks = missing(find_peer("diffusers-fp32"))
    assert str(lacks) == "not installed: diffusers; pip install 'latentrt[bench]'"


def test_openvino_genai_does_not_pass_fp32_off_as_bf16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    (tmp_path / "openvino-genai").mkdir()
    (tmp_path / "openvino-genai" / ".stamp").touch()
    monkeypatch.setattr(openvino, "computes_bf16", lambda: False)
    lacks = missing(find_peer("openvino-genai-bf16"))
    assert lacks is not None
    assert lacks.problem == "this CPU has no bf16: OpenVINO would take fp32 for it"
    assert lacks.remedy == "take openvino-genai-fp32"
    assert missing(find_peer("openvino-genai-fp32")) is None
    # PyTorch computes in it all the same.
    assert missing(find_peer("diffusers-bf16")) is None
    monkeypatch.setattr(openvino, "computes_bf16", lambda: True)
    assert missing(find_peer("openvino-genai-bf16")) is None


def test_without_a_checkout_no_peer_can_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "SCRIPTS", tmp_path)
    lacks = missing(find_peer("diffusers-fp32"))
    assert lacks is not None
    assert lacks.remedy == "run from a checkout of latentrt"


def test_an_unknown_peer_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match=r"one of diffusers-fp32, .*, got 'tensorflow'"):
        find_peer("tensorflow")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_nothing_of_ours(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    assert names
    assert not [name for name in names if name.startswith("latentrt")]


def test_every_peer_has_its_script_among_those() -> None:
    assert {peer.path for peer in PEERS} < set(SCRIPTS)


def test_the_environments_pin_what_they_are_for() -> None:
    pinned = {name: (peers.SCRIPTS / f"{name}.txt").read_text().split("\n") for name in
              {peer.environment for peer in PEERS} - {""}}  # fmt: skip
    assert {"optimum-onnx==0.1.0", "diffusers==0.39.0"} <= set(pinned["optimum-onnx"])
    assert any(line.startswith("transformers==4.57.") for line in pinned["optimum-onnx"])
    assert {"openvino-genai==2026.4.1.0", "optimum-intel==2.2.0"} <= set(pinned["openvino-genai"])
    assert any(line.startswith("transformers==5.5.") for line in pinned["openvino-genai"])


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment whose exporter writes what it was asked for; gives the exporter's file."""
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path / "environments")
    command = tmp_path / "environments" / "optimum-onnx" / "bin" / "optimum-cli"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$last/asked"\n')
    command.chmod(0o755)
    return command


def test_what_an_exporter_made_is_kept_by_the_checkpoints_content(
    exporter: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "weights").write_text("1")
    peer = find_peer("optimum-onnx-fp32")
    made = prepare(peer, checkpoint, tmp_path / "made")
    assert made is not None
    asked = (made / "asked").read_text()
    assert asked.startswith(f"export onnx --task text-to-image --model {checkpoint} ")
    exporter.unlink()
    assert prepare(peer, checkpoint, tmp_path / "made") == made
    (checkpoint / "weights").write_text("2")
    with pytest.raises(EngineError, match=r"export failed: .*optimum-cli: No such file"):
        prepare(peer, checkpoint, tmp_path / "made")


def test_an_exporter_that_fails_is_told_with_its_last_line_and_leaves_nothing(
    exporter: Path, tmp_path: Path
) -> None:
    exporter.write_text("#!/bin/sh\necho memory ran out >&2\nexit 3\n")
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(EngineError, match="export failed: exit status 3: memory ran out"):
        prepare(find_peer("optimum-onnx-fp32"), tmp_path / "checkpoint", tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_a_peer_that_reads_checkpoints_needs_no_preparation(tmp_path: Path) -> None:
    assert prepare(find_peer("diffusers-fp32"), tmp_path, tmp_path / "made") is None
