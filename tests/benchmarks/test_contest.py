"""What a contest is told before it begins: what cannot be is said at once, in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.benchmarks.reported import REPORT
from tests.cli.conftest import run
from tests.cli.outcome import Run

from latentrt.benchmarks.latency import bench
from latentrt.benchmarks.peers import contest, peers
from latentrt.benchmarks.peers.contest import bearable, check, float32_bytes
from latentrt.benchmarks.peers.lineup import Settings, chosen, line_up
from latentrt.benchmarks.peers.standings import Row, Standings
from latentrt.benchmarks.ratio import Ratio
from latentrt.bundle.errors import BundleError, InputError, Unavailable
from latentrt.bundle.tensors import Layout, write_tensors
from latentrt.cli import bench as command
from latentrt.engines.openvino import backend as openvino
from latentrt.runtime import Size

__all__ = ["run"]  # the fixture

Bundles = Callable[[str], Path]


@pytest.mark.parametrize(
    ("count", "least"), [("rounds", 1), ("warmups", 0), ("alone", 0), ("at_once", 2)]
)
def test_a_count_that_is_too_small_is_named(
    bundle: Bundles, checkpoint: Bundles, count: str, least: int
) -> None:
    enough: dict[str, Any] = {count: least}
    check(bundle("heads"), checkpoint("heads"), **enough)
    short: dict[str, Any] = {count: least - 1}
    with pytest.raises(InputError, match=f"{count}: expected at least {least}, got {least - 1}"):
        check(bundle("heads"), checkpoint("heads"), **short)


def test_a_peer_of_another_device_or_of_no_name_is_refused_with_those_there_are(
    bundle: Bundles, checkpoint: Bundles
) -> None:
    given = bundle("heads"), checkpoint("heads")
    with pytest.raises(InputError, match=r"runs on cpu: diffusers-fp32, .*-cuda-fp16'") as caught:
        check(*given, ["diffusers-bf16", "diffusers-cuda-fp16"])
    assert "cuda" not in caught.value.expected
    with pytest.raises(InputError, match=r"runs on cuda: diffusers-cuda-fp16.*'diffusers-bf16'"):
        check(*given, ["diffusers-bf16"], device="cuda")
    with pytest.raises(InputError, match=r"one of diffusers-fp32, .*, got 'tensorflow'"):
        check(*given, ["tensorflow"])
    with pytest.raises(InputError, match="device: expected one of cpu, cuda, got 'tpu'"):
        check(*given, device="tpu")


def test_a_peer_named_twice_takes_part_once_and_the_reference_always() -> None:
    names = ["diffusers-bf16", "diffusers-fp32", "optimum-onnx-fp32", "diffusers-bf16"]
    expected = ["diffusers-fp32", "diffusers-bf16", "optimum-onnx-fp32"]
    assert [peer.name for peer in chosen(names, "cpu")] == expected


@pytest.mark.parametrize("heeded", [True, False])
def test_bf16_takes_part_where_the_cpu_has_it_and_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundles, tmp_path: Path, heeded: bool
) -> None:
    monkeypatch.setattr(openvino, "computes_bf16", lambda: heeded)
    fp32 = ["diffusers-fp32", "diffusers-compile-fp32", "optimum-onnx-fp32", "openvino-genai-fp32"]
    bf16 = ["diffusers-bf16", "diffusers-compile-bf16", "openvino-genai-bf16"] if heeded else []
    assert [peer.name for peer in chosen(None, "cpu")] == fp32 + bf16
    named = chosen(["diffusers-bf16"], "cpu")
    assert [peer.name for peer in named] == ["diffusers-fp32", "diffusers-bf16"]
    assert all(peer.precision == "fp16" for peer in chosen(None, "cuda"))
    spec = Settings(Size(64, 64)).spec(tmp_path, tmp_path)
    found = line_up(bundle("heads"), named, spec, tmp_path, lambda _: None)
    ours = [each.name for each in found.contestants if each not in found.peers]
    expected = ["latentrt-onnxruntime-fp32", "latentrt-openvino-fp32", "latentrt-openvino-bf16"]
    assert ours == expected[: 3 if heeded else 2]
    assert found.absent == ()


def test_a_bundle_that_peers_do_not_load_is_refused_with_its_family(
    bundle: Bundles, checkpoint: Bundles, tmp_path: Path
) -> None:
    expected = "family stable-diffusion, which peers load, got stable-diffusion-xl"
    with pytest.raises(InputError, match=expected):
        check(bundle("xl"), checkpoint("xl"))
    with pytest.raises(BundleError):
        check(tmp_path, checkpoint("heads"))


def test_a_checkpoint_that_cannot_be_had_is_named_and_nothing_is_written(
    bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for checkpoint in (None, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="checkpoint: expected a diffusers folder"):
            check(bundle("heads"), checkpoint)
    check(bundle("heads"), "random:sd15")
    assert list(tmp_path.iterdir()) == []


def test_without_the_reference_nothing_begins(
    bundle: Bundles, checkpoint: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "diffusers" else name)
    expected = "diffusers-fp32, the reference: not installed: diffusers; pip install"
    with pytest.raises(Unavailable, match=expected):
        check(bundle("heads"), checkpoint("heads"), ["openvino-genai-fp32"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "x", "size: expected WIDTHxHEIGHT such as 512x512, got 'x'"),
        ("--rounds", "0", "rounds: expected at least 1, got 0"),
        ("--warmups", "-1", "warmups: expected at least 0, got -1"),
        ("--alone", "-1", "alone: expected at least 0, got -1"),
        ("--bundle", "nowhere", "nowhere"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch, option: str, value: str, message: str
) -> None:
    given = {"--bundle": str(bundle("heads")), "--size": "64x64", option: value}
    words = [word for pair in given.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["contest", *words])
    with pytest.raises(SystemExit) as caught:
        contest.main()
    line = str(caught.value.code)
    assert line.startswith("error: ")
    assert message in line
    assert "\n" not in line


def test_the_command_writes_the_standings_of_an_interrupted_contest_and_its_status_says_so(
    bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("r", "fp32", seconds=(1.0,), ratio=Ratio(1.0, 1.0, 1.0), start=1.0)
    whole = Standings("r", (row,), (("r",),), 1, 0, {}, "", {}, {})
    file = tmp_path / "found.json"
    words = ["--bundle", str(bundle("heads")), "--size", "64x64", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["contest", *words])
    monkeypatch.setattr(contest, "against", lambda *_, **__: whole)
    contest.main()
    monkeypatch.setattr(contest, "against", lambda *_, **__: replace(whole, interrupted=True))
    with pytest.raises(SystemExit) as caught:
        contest.main()
    assert caught.value.code == 130
    assert json.loads(file.read_text())["interrupted"]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    file.unlink()
    monkeypatch.setattr(contest, "against", interrupt)
    with pytest.raises(SystemExit) as caught:
        contest.main()
    assert (caught.value.code, file.exists()) == (130, False)


def test_bench_says_that_others_cannot_be_had_before_it_measures(
    run: Run, bundle: Bundles, checkpoint: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("nothing was to be measured")

    monkeypatch.setattr(bench, "measure", measure)
    for arguments, message in (
        (("--against", "all"), "checkpoint: expected a diffusers folder"),
        (("--against", "somebody"), "peer: expected one of diffusers-fp32"),
        (("--against", "diffusers-cuda-fp16"), "peer: expected one that runs on cpu"),
        (("--against", "all", "--rounds", 0), "rounds: expected at least 1, got 0"),
    ):
        done = run("bench", bundle("heads"), *arguments)
        assert (done.status, done.out) == (2, "")
        assert message in done.err


def test_bench_gives_others_its_threads_and_says_what_is_fixed(
    run: Run, bundle: Bundles, checkpoint: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def against(*given: Any, **more: Any) -> Standings:
        told.extend((given, more))
        ratio = Ratio(1.0, 1.0, 1.0)
        row = Row("diffusers-fp32", "fp32", seconds=(1.0,), ratio=ratio, start=1.0)
        return Standings(row.name, (row,), ((row.name,),), 1, 0, given[2].to_json(), "", {}, {})

    def measured(subject: Any, *_: object) -> Any:
        request = subject.request.to_json()
        options = dict(subject.options)
        return replace(REPORT, subject={"request": request, "options": options, "size": "64x32"})

    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(command, "against", against)
    monkeypatch.setattr(command, "print_report", lambda _: None)
    drawn = ("--threads", 3, "--steps", 4, "--guidance-scale", 2, "--rounds", 5)
    others = ("--against", "diffusers-bf16", "--checkpoint", checkpoint("heads"))
    done = run("bench", bundle("heads"), *drawn, *others)
    assert done.status == 0, done.err
    (path, source, settings, names), more = told
    assert (path, source) == (bundle("heads"), str(checkpoint("heads")))
    assert names == ("diffusers-bf16",)
    assert more == {"rounds": 5}
    assert isinstance(settings, Settings)
    assert (str(settings.size), settings.steps, settings.threads) == ("64x32", 4, 3)
    assert (settings.sampler, settings.guidance_scale) == ("ddim", 2.0)
    assert settings.device == "cpu"
    assert "all by ddim, latentrt by a fixed set of engines" in done.out
    assert "diffusers-fp32" in done.out


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_checkpoint_counts_in_float32_whatever_it_is_stored_in(
    tmp_path: Path, dtype: Any
) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for part, name in (
        ("text_encoder", "model"),
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
    ):
        (tmp_path / part).mkdir()
        layout = Layout.of({"x": (np.dtype(dtype), (3, 5)), "y": (np.dtype(dtype), (7,))})
        shapes = {"x": (3, 5), "y": (7,)}
        write_tensors(
            tmp_path / part / f"{name}.safetensors",
            layout,
            lambda tensor, shapes=shapes: np.zeros(shapes[tensor], dtype),
        )
    (tmp_path / "whole.safetensors").write_bytes(b"read by nobody")
    assert float32_bytes(tmp_path) == 3 * (15 + 7) * 4


@pytest.mark.parametrize(
    ("free", "alone", "places"),
    # Of SD 1.5's size, 4.3 GB in float32, the hungriest was seen to need 11.9 GB.
    [(36e9, 0, 3), (36e9, 10, 2), (24e9, 0, 2), (24e9, 10, 2), (1e9, 0, 2), (None, 0, 2)],
)
def test_as_many_are_there_as_memory_bears_and_a_script_by_itself_is_one_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float | None, alone: int, places: int
) -> None:
    monkeypatch.setattr(contest, "float32_bytes", lambda _: 4_300_000_000)
    monkeypatch.setattr(contest, "available_memory", lambda: free)
    assert bearable(tmp_path, alone) == places
