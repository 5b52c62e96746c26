"""The contest: who draws when, what becomes of it, and what of those who cannot."""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from latentrt.benchmarks import contest, peers, turns
from latentrt.benchmarks.alone import seconds_alone
from latentrt.benchmarks.checkpoint_folder import checkpoint_folder
from latentrt.benchmarks.contest import against
from latentrt.benchmarks.contestant import request_of
from latentrt.benchmarks.lineup import Settings
from latentrt.benchmarks.peer_process import Contestant, PeerProcess
from latentrt.benchmarks.peers import PEERS, find_peer, missing, prepare
from latentrt.benchmarks.standings import Ratio, Row
from latentrt.benchmarks.turns import in_turns
from latentrt.bundle.errors import EngineError, InputError
from latentrt.export import synthetic
from latentrt.export.synthetic import SyntheticCheckpoint
from latentrt.runtime import Pipeline, Size
from latentrt.weights.checkpoint import Checkpoint

Bundles = Callable[[str], Path]
SCHEMA = Path(__file__).parents[2] / "docs" / "contest.schema.json"

# A contestant that is told what to answer: its seconds one after the other, the value of its
# pixels, and what goes wrong.
FAKE = """
import json, os, sys, time

spec = json.load(open(sys.argv[1]))

def note(event):
    with open(spec["diary"], "a") as diary:
        print(spec["name"], event, file=diary)

if "--runs" in sys.argv:
    if spec.get("fails") == "alone":
        sys.exit("no such model")
    note("alone")
    for took in spec["alone"]:
        print(f"{took:.4f} s")
    sys.exit(print("median 1.0000 s per picture"))

note("starts")
if spec.get("fails") == "first":
    sys.exit("one line\\nno such model")
ready = {"versions": {"fake": "1"}, "settings": {"fast": "yes"}, "first": 0.5, "rss_peak": 1000}
print("{" if spec.get("fails") == "babble" else json.dumps(ready), flush=True)
seconds = iter(spec["seconds"])
for line in sys.stdin:
    word, _, path = line.strip().partition(" ")
    note(word)
    if word == "save":
        import numpy
        numpy.save(path, numpy.full((1, 3, 2, 2), spec["value"], dtype=numpy.float32))
        print(json.dumps({"saved": path}), flush=True)
        continue
    took = next(seconds)
    if took is None and spec["fails"] == "hang":
        time.sleep(600)
    if took is None:
        os.abort()
    stages = {"text": took / 8, "unet": took / 2, "decode": took / 4}
    peak = spec.get("peak", 2000)
    print(json.dumps({"seconds": took, "stages": stages, "rss_peak": peak}), flush=True)
note("ends")
"""


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Contestant]:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def make(
        name: str, seconds: Sequence[float | None], value: float = 0.5, **more: Any
    ) -> Contestant:
        spec = {"name": name, "seconds": seconds, "value": value, "diary": str(tmp_path / "diary")}
        return Contestant(name, "fp32", (sys.executable, str(script)), {**spec, **more})

    return make


@pytest.fixture(autouse=True)
def turns_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_TURN", 1.0)


def hold(
    folder: Path, *contestants: Contestant, rounds: int = 3, warmups: int = 0, **more: Any
) -> tuple[tuple[Row, ...], tuple[tuple[str, ...], ...]]:
    options: dict[str, Any] = {"at_once": 9, "pause": 0.0, "limit": 60.0, **more}
    return in_turns(
        contestants[0],
        contestants[1:],
        rounds=rounds,
        warmups=warmups,
        scratch=folder,
        say=lambda _: None,
        **options,
    )


def diary(folder: Path) -> list[str]:
    return (folder / "diary").read_text().splitlines()


def test_a_ratio_is_of_pictures_drawn_in_one_round_and_warmups_do_not_count(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    (reference, other), groups = hold(
        tmp_path, fake("a", [100, 4, 8, 6]), fake("b", [1, 2, 2, 3], value=0.52), warmups=1
    )
    assert groups == (("a", "b"),)
    assert (reference.seconds, other.seconds) == ((4, 8, 6), (2, 2, 3))
    assert reference.ratio == Ratio(1.0, 1.0, 1.0)
    assert other.ratio is not None
    assert other.ratio.median == 2.0  # of 2, 4 and 2; the medians' ratio would be 3
    assert (other.ratio.low, other.ratio.high) == (2.0, 4.0)
    # An eighth, a half and a quarter are the parts: an eighth is left over.
    assert other.stages == {"text": 0.25, "unet": 1.0, "decode": 0.5, "own": 0.25}
    assert (other.first, other.rss_peak) == (0.5, 2000)
    assert (other.versions, other.settings) == ({"fake": "1"}, {"fast": "yes"})
    assert other.psnr == pytest.approx(40.0, abs=1e-4)  # 10 log10(2^2 / 0.02^2)
    assert reference.psnr is None


def test_where_memory_is_not_known_there_is_no_peak(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    (reference, other), _ = hold(tmp_path, fake("a", [1, 1, 1]), fake("b", [1, 1, 1], peak=None))
    assert (reference.rss_peak, other.rss_peak) == (2000, None)


def test_of_a_turn_the_median_picture_of_its_second_half_counts(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    (reference, other), _ = hold(
        tmp_path, fake("a", [1.0, 2.0]), fake("b", [0.4, 0.1, 0.2, 0.1, 0.3, 0.75, 0.5]), rounds=2
    )
    assert (reference.seconds, other.seconds) == ((1.0, 2.0), (0.2, 0.5))
    assert diary(tmp_path).count("b go") == 7


def test_who_draws_first_changes_with_every_round(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    hold(tmp_path, *(fake(name, [1, 1, 1]) for name in "abc"))
    assert [line[0] for line in diary(tmp_path) if line.endswith("go")] == [*"abccbaabc"]


def test_the_reference_is_in_every_group_and_no_more_are_there_than_memory_bears(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    rows, groups = hold(tmp_path, *(fake(name, [1, 2]) for name in "abcd"), rounds=2, at_once=3)
    assert groups == (("a", "b", "c"), ("a", "d"))
    assert [row.seconds for row in rows] == [(1, 2, 1, 2), (1, 2), (1, 2), (1, 2)]
    there: set[str] = set()
    for name, event in (line.split() for line in diary(tmp_path)):
        there = there | {name} if event == "starts" else there
        assert len(there) <= 3
        there = there - {name} if event == "ends" else there
    assert not there


@pytest.mark.parametrize(
    ("fails", "seconds", "problem"),
    [
        ("first", (1, 1, 1), "bad: exit status 1: no such model"),
        ("abort", (1, None), "bad: ended by SIGABRT: it printed nothing"),
        ("hang", (1, None), "bad: no answer in 5 s"),
        ("babble", (1, 1, 1), "bad: expected versions, settings, first, rss_peak, got '{'"),
    ],
)
def test_a_contestant_that_fails_is_a_row_with_its_problem_and_the_rest_goes_on(
    fake: Callable[..., Contestant],
    tmp_path: Path,
    fails: str,
    seconds: Sequence[float | None],
    problem: str,
) -> None:
    (_, bad, good), _ = hold(
        tmp_path,
        fake("a", [1, 1, 1]),
        fake("bad", seconds, fails=fails),
        fake("c", [1, 1, 1]),
        limit=5.0,
    )
    assert (bad.problem, bad.seconds, bad.ratio) == (problem, (), None)
    assert (good.problem, good.seconds) == ("", (1, 1, 1))


def test_a_command_that_is_not_there_is_a_problem(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    gone = replace(fake("gone", []), command=(str(tmp_path / "nobody"),))
    (_, row), _ = hold(tmp_path, fake("a", [1, 1, 1]), gone)
    assert row.problem.startswith("gone: ")
    assert "nobody" in row.problem


def test_without_the_reference_there_is_no_contest(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="reference of the contest failed: a: exit status 1"):
        hold(tmp_path, fake("a", [], fails="first"), fake("b", [1, 1, 1]))


def test_a_peer_is_held_against_its_own_script_by_itself(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    contestants = [
        fake("a", [9, 4, 3, 5], alone=[3.75, 9.0, 3.75]),
        fake("b", [9, 2, 2, 2], alone=[1.8, 1.8, 1.6]),
        fake("c", [9, 2, 2, 2], alone=[], fails="alone"),
        fake("d", [9, 2, 2, 2], alone=[1.0]),
        fake("e", [9, 2, None, 2], alone=[2.0, 2.0, 2.0], fails="crash"),
        fake("ours", [9, 2, 2, 2]),
    ]

    def alone(one: Contestant) -> float | None:
        return None if one.name == "ours" else seconds_alone(one, 3, tmp_path)

    (a, b, c, d, e, ours), _ = hold(tmp_path, *contestants, warmups=1, alone=alone)
    # The medians of what the scripts print, one for each round that counts: 3, 4 and 5 over 3.75.
    assert (a.seconds, a.alone, a.apart) == ((4, 3, 5), (3.75, 3.75, 3.75), False)
    assert a.beside == Ratio(4 / 3.75, 3 / 3.75, 5 / 3.75)
    assert (b.beside, b.apart) == (Ratio(2 / 1.8, 2 / 1.8, 2 / 1.8), True)
    assert (c.problem, c.alone) == ("c: alone, exit status 1: no such model", ())
    assert (d.problem, d.alone) == ("d: alone, 1 pictures of 3", ())
    assert e.problem.startswith("e: ended by SIGABRT")
    assert (ours.alone, ours.beside, ours.apart) == ((), None, False)
    # Right after its turn, not after everybody's.
    events = [line for line in diary(tmp_path) if line.split()[0] in "ab"]
    turn = events.index("a alone")
    assert events[turn - 1 : turn + 1] == ["a go", "a alone"]
    assert events.count("a alone") == 3


def test_a_reference_whose_own_script_fails_is_no_reference(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="reference of the contest failed: a: alone, 1 pictures"):
        hold(
            tmp_path,
            fake("a", [1, 1, 1], alone=[1.0]),
            alone=lambda one: seconds_alone(one, 2, tmp_path),
        )


# What a peer needs before it can run.


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


SCRIPTS = sorted(peers.SCRIPTS.glob("*.py"))


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


# A random checkpoint in files.

TINY: dict[str, Any] = {
    "model_index": {"_class_name": "StableDiffusionPipeline"},
    "text_encoder": {
        "vocab_size": 520,
        "max_position_embeddings": 77,
        "architectures": ["CLIPTextModel"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
        "bos_token_id": 518,
        "eos_token_id": 519,
        "pad_token_id": 519,
    },
    "tokenizer": {"pad_token": "<|endoftext|>"},
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 8,
        "block_out_channels": [16, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 8,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    },
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a random checkpoint of hardly any size."""
    monkeypatch.setattr(synthetic, "ARCHITECTURES", {"tiny": TINY})
    return "random:tiny"


def test_a_random_checkpoint_in_files_has_the_values_that_exporting_it_stores(
    tiny: str, tmp_path: Path
) -> None:
    folder = checkpoint_folder(tiny, tmp_path / "tiny")
    source, written = SyntheticCheckpoint.named(tiny), Checkpoint.open(folder)
    for part in ("text_encoder", "unet", "vae"):
        expected, tensors = source.tensors(part), written.tensors(part)
        assert set(tensors) == set(expected)
        for name in expected:
            assert np.array_equal(tensors[name], expected[name]), name


def test_diffusers_loads_a_random_checkpoint_whole(tiny: str, tmp_path: Path) -> None:
    folder = checkpoint_folder(tiny, tmp_path / "tiny")
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    source = SyntheticCheckpoint.named(tiny)
    for part in ("text_encoder", "unet", "vae"):
        tensors = source.tensors(part)
        state = getattr(pipe, part).state_dict()
        names = {name.removeprefix("text_model."): name for name in tensors}
        assert {name.removeprefix("text_model.") for name in state} == set(names)
        for name, tensor in state.items():
            expected = tensors[names[name.removeprefix("text_model.")]]
            assert torch.equal(tensor, torch.from_numpy(expected)), name
    assert pipe.tokenizer.model_max_length == 77
    assert pipe.scheduler.config.steps_offset == 1


def test_a_random_checkpoint_is_written_once(tiny: str, tmp_path: Path) -> None:
    folder = checkpoint_folder(tiny, tmp_path / "tiny")
    (folder / "mark").touch()
    assert checkpoint_folder(tiny, tmp_path / "tiny") == folder
    assert (folder / "mark").exists()
    assert checkpoint_folder(folder, tmp_path / "elsewhere") == folder
    assert not (tmp_path / "elsewhere").exists()


def test_a_bundle_of_a_random_checkpoint_will_do_and_another_needs_its_checkpoint(
    tiny: str, bundle: Bundles, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="checkpoint: expected a diffusers folder"):
        checkpoint_folder(bundle("heads"), tmp_path / "none")
    renamed = tmp_path / "bundle"
    shutil.copytree(bundle("heads"), renamed)
    manifest = json.loads((renamed / "manifest.json").read_text())
    (renamed / "manifest.json").write_text(json.dumps({**manifest, "source": tiny}))
    written = checkpoint_folder(renamed, tmp_path / "tiny")
    assert (written / "unet" / "diffusion_pytorch_model.safetensors").is_file()


# The real thing, small.


def test_ours_in_a_process_draws_the_pipelines_own_picture_bit_for_bit(
    bundle: Bundles, tmp_path: Path
) -> None:
    latents = tmp_path / "latents.npy"
    np.save(latents, np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32))
    settings = Settings(Size(64, 64), steps=2, threads=1)
    spec = settings.spec(tmp_path, latents) | {
        "model": str(bundle("heads")),
        "engine": "onnxruntime",
        "precision": "fp32",
    }
    command = (sys.executable, "-m", "latentrt.benchmarks.contestant")
    contestant = Contestant("ours", "fp32", command, spec, os.environ)
    with PeerProcess(contestant, tmp_path, limit=120.0) as process:
        ready = process.ready()
        lap = process.go()
        drawn = process.save()
    with Pipeline.open(bundle("heads"), engine="onnxruntime", threads=1) as pipeline:
        picture = pipeline(request_of(spec)).images[0]
    assert np.array_equal(
        drawn, np.asarray(picture).transpose(2, 0, 1)[None] / np.float32(127.5) - 1
    )
    assert ready.settings["unet"] == "onnxruntime"
    assert set(lap.stages) == {"text", "unet", "decode"}
    assert all(0.0 < seconds < lap.seconds for seconds in lap.stages.values())
    assert sum(lap.stages.values()) < lap.seconds


def test_everybody_in_fp32_draws_the_picture_of_diffusers_and_who_is_missing_is_named(
    bundle: Bundles, checkpoint: Bundles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(contest, "busy", lambda: 0.125)
    monkeypatch.setattr(turns, "_TURN", 0.0)
    standings = against(
        bundle("heads"),
        checkpoint("heads"),
        Settings(Size(64, 64), steps=2, threads=1),
        ["openvino-genai-fp32"],
        rounds=1,
        warmups=0,
        alone=1,
        folder=tmp_path / "made",
        say=lambda _: None,
    )
    rows = {row.name: row for row in standings.rows}
    assert [*rows] == [
        "diffusers-fp32",
        "latentrt-onnxruntime-fp32",
        "latentrt-openvino-fp32",
        "latentrt-openvino-bf16",
        "openvino-genai-fp32",
    ]
    assert rows["openvino-genai-fp32"].remedy == "make peers ARGS=openvino-genai"
    for name in ("latentrt-onnxruntime-fp32", "latentrt-openvino-fp32"):
        # A rounding that falls the other way is one 255th in one place: half of all would be 51 dB.
        psnr = rows[name].psnr
        assert psnr is None or psnr > 55, name
    bf16 = rows["latentrt-openvino-bf16"].psnr
    assert bf16 is not None
    assert [name for name, row in rows.items() if row.alone] == ["diffusers-fp32"]
    assert bf16 > 25  # eight bits of mantissa, in every layer
    found = json.loads(json.dumps(standings.to_json(), allow_nan=False))
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert (found["busy"], found["disturbed"]) == (0.125, False)
    # The only peer in fp32 here is the reference, and none is in bf16.
    best = {name: row["best"] for name, row in zip(rows, found["rows"], strict=True)}
    for name in ("latentrt-onnxruntime-fp32", "latentrt-openvino-fp32"):
        ratio = found["rows"][[*rows].index(name)]["ratio"]
        assert best[name] == {"peer": "diffusers-fp32", **ratio}
    assert best["latentrt-openvino-bf16"] is None
    assert found["settings"]["size"] == "64x64"
    assert found["reference"] == "diffusers-fp32"
    assert {"before", "after"} == set(found["load"])
