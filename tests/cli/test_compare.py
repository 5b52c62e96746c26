"""`latentrt compare` as a user meets it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.benchmarks.planted import planted
from tests.cli.outcome import Run

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"


def forged(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle with a fault in a query, whose manifest says that all is well."""
    spoiled = planted(bundle, folder, "unet", f"{QUERY}.weight").path
    manifest = json.loads((spoiled / "manifest.json").read_text())
    content = (spoiled / "weights" / "unet.safetensors").read_bytes()
    manifest["files"]["weights/unet.safetensors"]["sha256"] = hashlib.sha256(content).hexdigest()
    (spoiled / "manifest.json").write_text(json.dumps(manifest))
    return spoiled


def test_layers_name_a_fault_with_status_3_and_none_where_there_is_none(
    run: Run, bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    engine = ("--engine", "onnxruntime")
    good = run("compare", bundle("heads"), "--layers", *engine)
    assert good.status == 0, good.err
    assert "unet: 116 layers within tolerance" in good.out
    assert "first layer out of tolerance" not in good.out
    assert "PyTorch took the bundle's own weights" in good.out

    spoiled = forged(bundle("heads"), tmp_path / "spoiled")
    bad = run("compare", spoiled, "--layers", "--checkpoint", checkpoint("heads"), *engine)
    assert bad.status == 3
    assert f"unet: first layer out of tolerance: {QUERY} (Linear)" in bad.out
    assert bad.out.count("layer out of tolerance:") == 1
    (line,) = [each for each in bad.out.splitlines() if each.split()[:1] == [QUERY]]
    assert "FAILED" in line

    blind = run("compare", spoiled, "--layers", *engine)
    assert blind.status == 3
    assert "made with other weights than the bundle's own weights" in blind.out


def test_layers_are_part_of_the_json(run: Run, bundle: Callable[[str], Path]) -> None:
    done = run("compare", bundle("heads"), "--layers", "--engine", "onnxruntime", "--json")
    value = json.loads(done.out)
    assert value["schema"] == 2
    names = ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    assert [table["component"] for table in value["layers"]] == names
    unet = value["layers"][1]
    assert (unet["first"], unet["origins"], unet["passed"]) == (None, [], True)
    assert unet["layers"][0]["name"] == "time_embedding.linear_1"
    assert unet["layers"][-1]["name"] == "conv_out"


@pytest.mark.parametrize("missing", ["torch", "onnx"])
def test_layers_without_what_they_need_say_how_to_install_it(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for module in ("layers", "original"):
        monkeypatch.delitem(sys.modules, f"latentrt.benchmarks.{module}", raising=False)
    done = run("compare", bundle("heads"), "--layers", "--engine", "onnxruntime")
    assert done.status == 1
    lines = [line for line in done.err.splitlines() if line.startswith("latentrt: ")]
    assert len(lines) == 1
    assert missing in lines[0]
    assert "pip install 'latentrt[bench]'" in lines[0]


def test_a_checkpoint_is_of_no_use_to_the_stored_answers(
    run: Run, bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    done = run("compare", bundle("heads"), "--checkpoint", checkpoint("heads"))
    assert (done.status, "checkpoint: expected --layers beside it" in done.err) == (2, True)
