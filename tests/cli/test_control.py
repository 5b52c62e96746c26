"""`latentrt generate --control`: ControlNets of a command line, drawn again, and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.outcome import Run
from tests.controlnets import hint_picture, saved_controlnet

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, ShapeNotBuilt
from latentrt.cli.controls import given_controls
from latentrt.runtime import Control, Pipeline, Request, Sampling, canny
from latentrt.runtime.image import recorded_request
from latentrt.runtime.pixels import pixels_sha256

Bundles = Callable[[str], Path]
STEPS = ("--steps", 2, "--seed", 5, "--size", "64x64", "--engine", "onnxruntime", "--verify", "off")


@pytest.fixture(scope="module")
def model(checkpoint: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_controlnet(checkpoint("heads"), tmp_path_factory.mktemp("cn") / "lines")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "lines.png"
    Image.fromarray(hint_picture()).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_controlled_picture_is_drawn_and_drawn_again_from_its_file(
    bundle: Bundles, model: Path, picture: Path, tmp_path: Path, run: Run
) -> None:
    out, other = tmp_path / "a.png", tmp_path / "b.png"
    command = ("generate", bundle("heads"), "a red circle", "-o", out, *STEPS)
    drawn = run(*command, "--control", f"{model}={picture}:0.7:0:0.8", "--control-mode", "prompt")
    assert drawn.status == 0, drawn.err
    (entry,) = recorded_request(out)["controls"]
    assert entry["name"] == "lines"
    assert entry["image"] == pixels_sha256(hint_picture())
    assert [entry[k] for k in ("scale", "start", "end", "mode")] == [0.7, 0.0, 0.8, "prompt"]
    engine = STEPS[-4:]
    again = run(
        "generate", bundle("heads"), "--from", out, "--control", f"{model}={picture}", "-o", other,
        *engine,
    )  # fmt: skip
    assert again.status == 0, again.err
    assert "note" not in again.err
    assert np.array_equal(pixels(out), pixels(other))
    stated = run(
        "generate", bundle("heads"), "--from", out, "--control", f"{model}={picture}:0.1",
        "-o", other, *engine,
    )  # fmt: skip
    assert stated.status == 0, stated.err
    (entry,) = recorded_request(other)["controls"]
    assert [entry[k] for k in ("scale", "start", "end", "mode")] == [0.1, 0.0, 0.8, "prompt"]
    assert not np.array_equal(pixels(out), pixels(other))
    lacking = run("generate", bundle("heads"), "--from", out, "-o", other, *engine)
    assert lacking.status == 2
    assert "control: expected the picture's 'lines' (SHA-256 " in lacking.err


def test_another_picture_beside_a_drawn_one_is_noted(
    bundle: Bundles, model: Path, picture: Path, tmp_path: Path, run: Run
) -> None:
    out, other, hint = (tmp_path / name for name in ("a.png", "b.png", "hint.png"))
    Image.fromarray(hint_picture(9)).save(hint)
    run("generate", bundle("heads"), "x", "-o", out, "--control", f"{model}={picture}", *STEPS)
    again = run(
        "generate", bundle("heads"), "--from", out, "--control", f"{model}={hint}", "-o", other,
        *STEPS[-4:],
    )  # fmt: skip
    assert again.status == 0, again.err
    assert "note: other ControlNets than the picture's" in again.err


def test_a_controlnet_of_another_family_is_one_line_before_anything_is_compiled(
    bundle: Bundles,
    checkpoint: Bundles,
    picture: Path,
    tmp_path: Path,
    run: Run,
    logged: list[str],
) -> None:
    other = saved_controlnet(checkpoint("xl"), tmp_path / "for-xl")
    found = run("generate", bundle("heads"), "x", "--control", f"{other}={picture}", *STEPS[:-2])
    assert found.status == 2
    assert found.err.strip().split("\n")[-1] == (
        "latentrt: control: expected a ControlNet for text of width 32, "
        "got for-xl, for text of width 72"
    )
    assert not [line for line in logged if "compil" in line]


def test_a_whole_model_is_no_controlnet(bundle: Bundles, picture: Path, run: Run) -> None:
    found = run("generate", bundle("heads"), "x", "--control", f"{bundle('xl')}={picture}", *STEPS)
    assert found.status == 2
    assert "control: expected a ControlNet, got" in found.err
    assert "a whole model" in found.err


def test_a_missing_picture_and_one_that_is_none_are_named(
    bundle: Bundles, model: Path, tmp_path: Path, run: Run
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    for given, expected in (
        (f"{model}={tmp_path / 'gone.png'}", "gone.png: no such file"),
        (f"{model}={text}", "notes.txt: is not a readable picture"),
        (f"{tmp_path / 'gone.safetensors'}={text}", "notes.txt: is not a readable picture"),
        (f"{model}", "control: expected CONTROLNET=IMAGE[:SCALE[:START:END]]"),
    ):
        found = run("generate", bundle("heads"), "x", "--control", given, *STEPS)
        assert found.status == 2
        assert expected in found.err
        assert found.err.strip().count("\n") == 0


def test_a_missing_controlnet_is_named(bundle: Bundles, picture: Path, run: Run) -> None:
    found = run("generate", bundle("heads"), "x", "--control", f"gone={picture}", *STEPS)
    assert found.status == 2
    assert "gone: no such ControlNet" in found.err


def test_numbers_follow_a_picture_whose_path_may_have_colons(tmp_path: Path) -> None:
    path = tmp_path / "at 10:30.png"
    Image.fromarray(hint_picture()).save(path)
    (plain,) = given_controls([f"net={path}"], None, None)
    assert (plain.control.scale, plain.stated) == (1.0, frozenset())
    (scaled,) = given_controls([f"net={path}:0.5"], None, None)
    assert (scaled.control.scale, scaled.control.end) == (0.5, 1.0)
    (timed,) = given_controls([f"net={path}:0.5:0.1:0.9"], "control", None)
    assert (timed.control.start, timed.control.end, timed.control.mode) == (0.1, 0.9, "control")
    assert timed.stated == {"scale", "start", "end", "mode"}
    for wrong in (f"net={path}:0.5:0.1", f"net={path}:much"):
        with pytest.raises(InputError, match="control: expected CONTROLNET=IMAGE"):
            given_controls([wrong], None, None)
    with pytest.raises(InputError, match="control end: expected a number from 0 to 1"):
        given_controls([f"net={path}:0.5:0.1:9"], None, None)


def test_canny_makes_edges_of_the_control_pictures(picture: Path) -> None:
    (found,) = given_controls([f"net={picture}"], None, (50.0, 120.0))
    assert np.array_equal(found.control.image, canny(hint_picture(), 50.0, 120.0))
    with pytest.raises(InputError, match="canny: expected none without --control"):
        given_controls([], None, (50.0, 120.0))
    with pytest.raises(InputError, match="control-mode: expected none without --control"):
        given_controls([], "prompt", None)


def test_engines_that_are_built_ahead_draw_under_a_controlnet_where_nothing_may_be_compiled(
    bundle: Bundles,
    model: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))
    request = Request(
        "x", seed=1, sampling=Sampling(steps=2), controls=[Control(model, hint_picture())]
    )
    run("build", bundle("heads"), "--engine", "onnxruntime", "--verify", "off")
    opened = Pipeline.open(bundle("heads"), engine="onnxruntime", build="never")
    message = r"hint_encoder: not built.*build MODEL --engine onnxruntime --control \S+"
    with opened as pipeline, pytest.raises(ShapeNotBuilt, match=message):
        pipeline(request)
    built = run("build", bundle("heads"), "--control", model, "--engine", "onnxruntime")
    assert built.status == 0, built.err
    lines = [line.split(":")[0] for line in built.out.splitlines()]
    assert [line.split()[0] for line in lines if "control" in line or "hint" in line] == [
        "unet_controlled",
        "unet_controlled",
        "hint_encoder",
        "controlnet",
        "controlnet",
    ]
    with Pipeline.open(bundle("heads"), engine="onnxruntime", build="never") as pipeline:
        pipeline(request)


def test_a_controlnet_is_exported_and_inspected(
    bundle: Bundles, checkpoint: Bundles, model: Path, run: Run, tmp_path: Path
) -> None:
    found = run("inspect", model)
    assert found.status == 0, found.err
    assert "ControlNet" in found.out
    assert "text of width 32" in found.out
    target = tmp_path / "bundle"
    made = run("export", model, target, "--dtype", "fp16")
    assert made.status == 0, made.err
    opened = Bundle.open(target)
    assert list(opened.manifest.components) == ["hint_encoder", "controlnet"]
    assert opened.manifest.dtype == "float16"
    described = run("inspect", target)
    assert described.status == 0, described.err
    refused = run("generate", target, "x", *STEPS)
    assert refused.status == 2
    assert "bundle: expected a model's, got" in refused.err
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        # The hash tells a bundle from the folder that it was made of.
        control = Control(target, hint_picture())
        assert control.sha256() == opened.manifest.model_hash
        pipeline(Request("x", seed=1, sampling=Sampling(steps=2), controls=[control]))


@pytest.mark.slow  # which takes a minute
def test_pytorch_traces_a_controlnet_whose_graphs_do_not_ship(
    checkpoint: Bundles, run: Run, tmp_path: Path
) -> None:
    # Levels of the picture's encoder that no graph has.
    folder = saved_controlnet(
        checkpoint("heads"), tmp_path / "net", conditioning_embedding_out_channels=(4, 4, 8, 8)
    )
    made = run("export", folder, tmp_path / "bundle")
    assert made.status == 0, made.err
    encoder = Bundle.open(tmp_path / "bundle").manifest.components["hint_encoder"]
    assert encoder.config["conditioning_embedding_out_channels"] == [4, 4, 8, 8]
