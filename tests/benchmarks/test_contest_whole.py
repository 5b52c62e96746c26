"""A contest of real contestants, small: ours and the reference in processes of their own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from tests.processor import HAS_BF16

from latentrt.benchmarks.peers import contest, peers, turns
from latentrt.benchmarks.peers.contest import against
from latentrt.benchmarks.peers.contestant import request_of
from latentrt.benchmarks.peers.lineup import Settings
from latentrt.benchmarks.peers.peer_process import Contestant, PeerProcess
from latentrt.runtime import Pipeline, Size

Bundles = Callable[[str], Path]
SCHEMA = Path(__file__).parents[2] / "docs" / "contest.schema.json"


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
    command = (sys.executable, "-m", "latentrt.benchmarks.peers.contestant")
    contestant = Contestant("ours", "fp32", command, spec, os.environ)
    with PeerProcess(contestant, tmp_path, limit=120.0) as process:
        ready = process.ready()
        lap = process.go()
        drawn = process.save()
    with Pipeline.open(bundle("heads"), engine="onnxruntime", options={"threads": 1}) as pipeline:
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
    monkeypatch.setattr(contest, "busy", lambda: 0.5)
    monkeypatch.setattr(turns, "busy", lambda _: 0.0)
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
        *(["latentrt-openvino-bf16"] if HAS_BF16 else []),
        "openvino-genai-fp32",
    ]
    assert rows["openvino-genai-fp32"].remedy == "make peers ARGS=openvino-genai"
    for name in ("latentrt-onnxruntime-fp32", "latentrt-openvino-fp32"):
        # A rounding that falls the other way is one 255th in one place: half of all would be 51 dB.
        psnr = rows[name].psnr
        assert psnr is None or psnr > 55, name
    assert [name for name, row in rows.items() if row.alone] == ["diffusers-fp32"]
    if HAS_BF16:
        bf16 = rows["latentrt-openvino-bf16"].psnr
        assert bf16 is not None
        assert bf16 > 25  # eight bits of mantissa, in every layer
    found = json.loads(json.dumps(standings.to_json(), allow_nan=False))
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert (found["busy"], found["disturbed"]) == (0.25, False)  # before it, and before its round
    # The only peer in fp32 here is the reference, and none is in bf16.
    best = {name: row["best"] for name, row in zip(rows, found["rows"], strict=True)}
    for name in ("latentrt-onnxruntime-fp32", "latentrt-openvino-fp32"):
        ratio = found["rows"][[*rows].index(name)]["ratio"]
        assert best[name] == {"peer": "diffusers-fp32", **ratio}
    assert best.get("latentrt-openvino-bf16") is None
    assert found["settings"]["size"] == "64x64"
    assert found["reference"] == "diffusers-fp32"
    assert {"before", "after"} == set(found["load"])
