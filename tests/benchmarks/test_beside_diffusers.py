"""latentrt beside diffusers, small, in processes of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from tests.processor import HAS_BF16

from latentrt.benchmarks.peers import registry, rounds
from latentrt.benchmarks.peers.measure import measure
from latentrt.benchmarks.peers.participants import Settings
from latentrt.runtime import Size

Bundles = Callable[[str], Path]
SCHEMA = Path(__file__).parents[2] / "docs" / "peers.schema.json"


def test_all_in_fp32_draw_the_image_of_diffusers_and_a_missing_peer_is_named(
    bundle: Bundles, checkpoint: Bundles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(rounds, "_TURN", 0.0)
    settings = Settings(Size(64, 64), steps=2, threads=1)
    results = measure(
        bundle("heads"), checkpoint("heads"), settings, ["openvino-genai-fp32"],
        rounds=1, folder=tmp_path / "made", say=lambda _: None,
    )  # fmt: skip
    rows = {row.name: row for row in results.rows}
    assert [*rows] == [
        "diffusers-fp32",
        "latentrt-onnxruntime-fp32",
        "latentrt-openvino-fp32",
        *(["latentrt-openvino-bf16"] if HAS_BF16 else []),
        "openvino-genai-fp32",
    ]
    assert rows["openvino-genai-fp32"].remedy == "make peers ARGS=openvino-genai"
    for name in ("latentrt-onnxruntime-fp32", "latentrt-openvino-fp32"):
        row = rows[name]
        assert row.problem == ""
        # A rounding that falls the other way is one 255th in one place: half of all would be 51 dB.
        assert row.psnr is None or row.psnr > 55, name
        assert row.settings["unet"] in name
        assert set(row.stages) == {"text", "unet", "decode", "own"}
        assert min(row.stages.values()) > 0
    if HAS_BF16:
        assert rows["latentrt-openvino-bf16"].equal_work
    value = json.loads(json.dumps(results.to_json(), allow_nan=False))
    jsonschema.validate(value, json.loads(SCHEMA.read_text()))
    assert value["settings"]["size"] == "64x64"
