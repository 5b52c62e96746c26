"""`latentrt compare` as a user meets it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import numpy as np
import pytest
from tests.benchmarks.planted import planted
from tests.cli.outcome import Outcome, Run

from latentrt.benchmarks import compare, live
from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.engines import onnxruntime, openvino
from latentrt.engines.engine import Blueprint, Options

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "compare.schema.json").read_text())


def told(done: Outcome) -> Any:
    """What `--json` printed: one object, which is of its schema."""
    value = json.loads(done.out)
    jsonschema.validate(value, SCHEMA)
    return value


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


def test_the_json_is_of_its_schema_and_says_of_what_bundle_machine_and_versions(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    done = run("compare", bundle("heads"), "--engine", "all", "--layers", "--json")
    assert done.status == 0, done.err
    value = told(done)
    assert (len(value["comparisons"]), len(value["layers"])) == (3, 3 * 4)
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
        {**value, "schema": 2},
        {**value, "more": 1},
        {**value, "comparisons": [{**value["comparisons"][0], "more": 1}]},
        {**value, **value["comparisons"][0]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


def test_layers_are_part_of_the_json(run: Run, bundle: Callable[[str], Path]) -> None:
    done = run("compare", bundle("heads"), "--layers", "--engine", "onnxruntime", "--json")
    value = told(done)
    assert value["schema"] == 3
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
    loaded = ("latentrt.export", "latentrt.benchmarks.layers", "latentrt.benchmarks.original")
    for name in [name for name in sys.modules if name.startswith(loaded)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    done = run("compare", bundle("heads"), "--layers", "--engine", "onnxruntime")
    assert done.status == 1
    lines = [line for line in done.err.splitlines() if line.startswith("latentrt: ")]
    assert len(lines) == 1
    assert missing in lines[0]
    assert "pip install 'latentrt[bench]'" in lines[0]


def test_live_holds_engines_against_pytorch_asked_now(
    run: Run, bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    done = run(
        "compare", bundle("heads"), "--engine", "onnxruntime", "--live",
        "--checkpoint", checkpoint("heads"), "--prompt", "a [bold] star", "--prompt", "a ring",
        "--seed", 3, "--seed", 4, "--steps", 2, "--size", "72x64", "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    value = told(done)
    asked = [(each["prompt"], each["noise"]) for each in value["runs"]]
    prompts, seeds = ("a [bold] star", "a ring"), ("seed 3", "seed 4")
    assert asked == [(prompt, seed) for prompt in prompts for seed in seeds]
    for each in value["runs"]:
        assert [row["name"] for row in each["steps_alone"]] == ["step 0", "step 1"]
        assert len(each["steps"]) == 2
        assert each["picture_psnr"] > 55
        assert each["picture_ssim"] > 1 - 1e-6
    assert value["picture_psnr"] == min(each["picture_psnr"] for each in value["runs"])
    assert value["reference"] == "PyTorch fp32, evaluated now with heads"


def test_every_engine_and_precision_is_a_row_of_one_table(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    rows = ["openvino fp32", "openvino bf16", "onnxruntime fp32"]
    done = run("compare", bundle("heads"), "--engine", "all")
    assert done.status == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    found = [line for line in lines if " ".join(line[:2]) in rows]
    assert [" ".join(line[:2]) for line in found] == rows
    # Four components, prompts, a step alone, the run, PSNR and SSIM, and the verdict.
    assert all(len(line) == 2 + 9 + 1 for line in found)
    assert [line[-1] for line in found] == ["ok"] * 3
    # bf16 has 8 bits, fp32 24.
    assert all(float(b) > 100 * float(a) for a, b in zip(found[0][2:9], found[1][2:9], strict=True))

    only = told(run("compare", bundle("heads"), "--engine", "all", "--precision", "bf16", "--json"))
    assert [each["precisions"]["unet"] for each in only["comparisons"]] == ["bf16"]
    assert (only["schema"], only["skipped"], only["passed"]) == (3, {}, True)


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


def test_a_bundle_without_goldens_can_be_held_against_pytorch_live(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundle("heads"), tmp_path / "lean"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["golden.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    engine = ("--engine", "onnxruntime")
    stored = run("compare", folder, *engine)
    assert (stored.status, "has no goldens" in stored.err) == (2, True)
    live = run("compare", folder, *engine, "--live", "--steps", 2)
    assert live.status == 0, live.err
    # Layers do without a run, on noise.
    layers = run("compare", folder, *engine, "--layers")
    assert layers.status == 0, layers.err
    assert "picture" not in layers.out
    # Then nothing that is stored is what they are held against.
    options = ("--engine", "all", "--precision", "fp32", "--layers", "--json")
    both = told(run("compare", folder, *options))
    assert (both["comparisons"], len(both["layers"])) == ([], 2 * 4)
    assert both["reference"] == "PyTorch fp32, evaluated now with the bundle's own weights"


def test_the_page_is_written_and_a_place_that_cannot_be_is_said_before_the_work(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "page.html"
    options = ("--engine", "onnxruntime", "--layers", "--html")
    done = run("compare", bundle("heads"), *options, path)
    assert done.status == 0, done.err
    content = path.read_text("utf-8")
    assert content.count("<img ") == 3  # PyTorch's picture, ours, and their difference
    assert "time_embedding.linear_1" in content
    assert f"numpy {np.__version__}" in content
    assert f"numpy {np.__version__}" in done.out.splitlines()[0]
    taken = run("compare", bundle("heads"), *options, tmp_path)
    assert (taken.status, "output: expected a file" in taken.err) == (2, True)


def test_adherence_is_judged_for_models_shapes_alone(
    run: Run, bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    options = ("--engine", "onnxruntime", "--adherence", 3)
    done = run("compare", bundle("shapes"), *options, "--json")
    assert done.status == 0, done.err
    value = told(done)
    assert value["drawn"] == 3
    # The checkpoint's record begins with the same prompts, steps and guidance; rounding in fp32
    # changes no picture so that it could be seen.
    record = json.loads((checkpoint("shapes") / "adherence.json").read_text())["outcomes"][:3]
    expected = {name: sum(o["right"][name] for o in record) / 3 for name in record[0]["right"]}
    expected["all"] = sum(all(o["right"].values()) for o in record) / 3
    assert value["adherence"] == expected
    table = run("compare", bundle("shapes"), *options)
    assert "3 pictures show what was asked for: colour 100%" in table.out
    other = run("compare", bundle("heads"), "--adherence", 4)
    assert (other.status, "adherence: expected a bundle of models/shapes" in other.err) == (2, True)
    none = run("compare", bundle("shapes"), "--adherence", 0)
    assert (none.status, "adherence: expected at least 1" in none.err) == (2, True)


def test_a_precision_that_no_engine_here_has_compares_nothing_and_says_so(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    done = run("compare", bundle("heads"), "--engine", "all", "--precision", "fp16")
    assert (done.status, "no engine that works here computes" in done.err) == (1, True)


def test_of_all_engines_one_without_an_option_asked_for_is_skipped_and_named(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    options = ("--engine", "all", "--precision", "fp32", "--streams", 2)
    done = run("compare", bundle("heads"), *options)
    assert done.status == 0, done.err
    assert "onnxruntime fp32: not compared: streams: expected nothing" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[-1] for line in lines if line[:2] == ["openvino", "fp32"]] == ["ok"]


def test_an_engine_that_cannot_be_compiled_is_an_error_though_there_are_others(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(blueprint: Blueprint, options: Options) -> NoReturn:
        raise BuildFailed(f"{blueprint.component}: no such operator in {options.precision}")

    monkeypatch.setattr(onnxruntime, "compile", fail)
    done = run("compare", bundle("heads"), "--engine", "all", "--precision", "fp32")
    assert (done.status, "no such operator in fp32" in done.err) == (1, True)


def test_of_all_engines_one_that_lacks_something_for_the_bundle_is_skipped_and_named(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(blueprint: Blueprint, options: Options) -> NoReturn:
        raise Unavailable(f"{options.precision} of {blueprint.component}: onnx is not installed")

    monkeypatch.setattr(onnxruntime, "compile", lack)
    done = run("compare", bundle("heads"), "--engine", "all", "--precision", "fp32", "--json")
    assert done.status == 0, done.err
    value = told(done)
    assert [each["engines"]["unet"] for each in value["comparisons"]] == ["openvino"]
    assert list(value["skipped"]) == ["onnxruntime fp32"]
    assert "onnx is not installed" in value["skipped"]["onnxruntime fp32"]
    alone = run("compare", bundle("heads"), "--engine", "onnxruntime")
    assert (alone.status, "onnx is not installed" in alone.err) == (1, True)


def test_where_no_engine_is_left_nothing_was_compared_and_the_reasons_are_given_at_once(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def asked(*given: object) -> NoReturn:
        pytest.fail("PyTorch was asked though there is nothing to hold against it")

    monkeypatch.setattr(openvino, "OPTIONS", frozenset[str]())
    monkeypatch.setattr(live, "answer", asked)
    path = tmp_path / "page.html"
    done = run("compare", bundle("heads"), "--engine", "all", "--precision", "fp32",
               "--streams", 2, "--live", "--html", path)  # fmt: skip
    assert (done.status, done.out, path.exists()) == (1, "", False)
    (line,) = [each for each in done.err.splitlines() if each.startswith("latentrt: ")]
    assert "nothing was compared: openvino fp32: streams: expected nothing" in line
    assert "onnxruntime fp32: streams: expected nothing" in line


def test_a_picture_too_far_off_is_marked_in_the_table_of_engines(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # bf16 leaves some 40 dB, and no picture of another engine is equal to the last bit.
    strict = {name: replace(each, psnr=math.inf) for name, each in compare.TOLERANCES.items()}
    monkeypatch.setattr(compare, "TOLERANCES", strict)
    options = ("--engine", "all", "--precision", "bf16")
    done = run("compare", bundle("heads"), *options)
    assert done.status == 3
    lines = [each.split() for each in done.out.splitlines()]
    (line,) = [each for each in lines if each[:2] == ["openvino", "bf16"]]
    assert (line[-3], line[-1]) == ("!", "FAILED")
    assert line.count("!") == 1
