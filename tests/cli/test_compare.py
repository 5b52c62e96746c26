"""`latentrt compare` as a user meets it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from tests.benchmarks.planted import planted
from tests.cli.compared import SCHEMA, told
from tests.cli.outcome import Run
from tests.processor import HAS_BF16

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
    assert "unet: 116 of 116 layers in the graph compared\nunet: all within tolerance" in good.out
    assert "first layer out of tolerance" not in good.out
    assert "PyTorch has the bundle's own weights" in good.out

    spoiled = forged(bundle("heads"), tmp_path / "spoiled")
    bad = run("compare", spoiled, "--layers", "--checkpoint", checkpoint("heads"), *engine)
    assert bad.status == 3
    assert f"unet: first layer out of tolerance: {QUERY} (Linear)" in bad.out
    assert bad.out.count("out of tolerance:") == 1
    (line,) = [each for each in bad.out.splitlines() if each.split()[:1] == [QUERY]]
    assert "FAILED" in line

    blind = run("compare", spoiled, "--layers", *engine)
    assert blind.status == 3
    assert "made with other weights than the bundle's own weights" in blind.out


def test_the_json_follows_its_schema_and_names_the_bundle_the_machine_and_versions(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    done = run("compare", bundle("heads"), "--engine", "all", "--layers", "--json")
    assert done.status == 0, done.err
    value = told(done)
    engines = 3 if HAS_BF16 else 2
    assert (len(value["comparisons"]), len(value["layers"])) == (engines, engines * 4)
    unet = next(table for table in value["layers"] if table["component"] == "unet")
    assert (unet["first"], unet["origins"], unet["passed"]) == (None, [], True)
    assert unet["layers"][0]["name"] == "time_embedding.linear_1"
    assert unet["layers"][-1]["name"] == "conv_out"
    manifest = json.loads((bundle("heads") / "manifest.json").read_text())
    assert value["bundle"] == {
        "name": bundle("heads").name,
        "source": manifest["source"],
        "family": "stable-diffusion",
        "dtype": "float32",
        "written": manifest["versions"],
    }
    machine = value["machine"]
    assert machine["packages"]["numpy"] == np.__version__
    assert machine["python"] == platform.python_version()
    assert 1 <= machine["cores"] <= (os.cpu_count() or 1)
    assert str(bundle("heads").parent) not in done.out
    for wrong in (
        {name: value[name] for name in value if name != "machine"},
        {**value, "schema": 4},
        {name: value[name] for name in value if name != "failed"},
        {**value, "more": 1},
        {**value, "comparisons": [{**value["comparisons"][0], "more": 1}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


@pytest.mark.parametrize("missing", ["torch", "onnx"])
def test_layers_without_pytorch_or_onnx_name_the_command_that_installs_it(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    loaded = (
        "latentrt.export",
        "latentrt.benchmarks.numerics.layers",
        "latentrt.benchmarks.numerics.torch_model",
    )
    for name in [name for name in sys.modules if name.startswith(loaded)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    done = run("compare", bundle("heads"), "--layers", "--engine", "onnxruntime")
    assert done.status == 1
    lines = [line for line in done.err.splitlines() if line.startswith("latentrt: ")]
    assert len(lines) == 1
    assert missing in lines[0]
    assert "pip install 'latentrt[bench]'" in lines[0]


def test_live_compares_engines_with_what_pytorch_computes_now(
    run: Run, bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    done = run(
        "compare", bundle("heads"), "--engine", "onnxruntime", "--live",
        "--checkpoint", checkpoint("heads"), "--prompt", "a [bold] star", "--prompt", "a ring",
        "--seed", 3, "--seed", 4, "--steps", 2, "--size", "72x64", "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    value = told(done)
    (found,) = value["comparisons"]
    asked = [(each["prompt"], each["noise"]) for each in found["runs"]]
    prompts, seeds = ("a [bold] star", "a ring"), ("seed 3", "seed 4")
    assert asked == [(prompt, seed) for prompt in prompts for seed in seeds]
    for each in found["runs"]:
        assert [row["name"] for row in each["steps_alone"]] == ["step 0", "step 1"]
        assert len(each["steps"]) == 2
        assert each["picture_psnr"] > 55
        assert each["picture_ssim"] > 1 - 1e-6
    assert found["picture_psnr"] == min(each["picture_psnr"] for each in found["runs"])
    assert value["reference"] == "PyTorch fp32, computed now with heads"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "a"), "prompt: expected --live beside it"),
        (("--seed", 0), "seed: expected --live beside it"),
        (("--steps", 0), "steps: expected --live beside it"),
        (("--size", "64x64"), "size: expected --live beside it"),
        (("--checkpoint", "x"), "checkpoint: expected --live or --layers beside it"),
        (("--live", "--steps", 0), "steps: expected an integer from 1 to 1000, got 0"),
        (("--live", "--seed", -1), "seed: expected an integer from 0 to 2**63 - 1, got -1"),
        (("--live", "--seed", 2**64), "seed: expected an integer from 0 to"),
        (("--live", "--size", "60x64"), "size: expected multiples of 8"),
        (("--live", "--checkpoint", "/nowhere"), "/nowhere: no such checkpoint folder"),
        (("--live", "--checkpoint", "random:sd99"), "random:sd15"),
        (("--engine", "all", "--component", "unet=fp32"), "component: expected none beside"),
        (("--engine", "all", "--precision", "fp2"), "precision: expected one of auto, fp32"),
        (("--engine", "every"), "engine: expected one of auto"),
    ],
)
def test_options_that_do_not_go_together_are_one_line_with_status_2(
    run: Run, bundle: Callable[[str], Path], options: tuple[object, ...], message: str
) -> None:
    done = run("compare", bundle("heads"), *options)
    assert done.status == 2
    (line,) = [each for each in done.err.splitlines() if each.startswith("latentrt: ")]
    assert message in line


def test_a_bundle_without_goldens_can_be_compared_with_pytorch_live(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundle("heads"), tmp_path / "lean"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["golden.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    engine = ("--engine", "onnxruntime")
    stored = run("compare", folder, *engine)
    assert (stored.status, "has no goldens" in stored.err) == (2, True)
    live = run("compare", folder, *engine, "--live", "--layers", "--steps", 2, "--json")
    value = told(live)
    assert (live.status, len(value["layers"]), value["passed"]) == (0, 4, True)
    assert value["reference"] == "PyTorch fp32, computed now with the bundle's own weights"


def test_the_page_is_written_and_a_folder_in_its_place_is_refused_first(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "page.html"
    options = ("--engine", "onnxruntime", "--layers", "--html")
    done = run("compare", bundle("heads"), *options, path)
    assert done.status == 0, done.err
    content = path.read_text("utf-8")
    assert content.count("image/png") == 3  # PyTorch's picture, ours, and their difference
    assert "time_embedding.linear_1" in content
    assert f"numpy {np.__version__}" in content
    assert f"numpy {np.__version__}" in done.out.splitlines()[0]
    taken = run("compare", bundle("heads"), *options, tmp_path)
    assert (taken.status, "html: expected a file" in taken.err) == (2, True)
