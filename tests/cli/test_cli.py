"""The command line as a user meets it: results, one clear line for an error, exit statuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.command import LATENTRT
from tests.cli.outcome import Run

from latentrt.runtime.schedules import CATALOGUE


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_generate_writes_a_png_and_prints_its_path_last(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out.png"
    done = run("generate", bundle("heads"), "a red circle", "-o", out, "--steps", 2, "--seed", 1)
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == str(out)
    assert pixels(out).shape == (64, 64, 3)
    assert os.listdir(out.parent) == ["out.png"]


def test_generate_from_a_png_gives_the_same_picture_bit_for_bit(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    options = ("--steps", 3, "--size", "136x72", "--guidance-scale", 3, "--sampler", "ddim")
    done = run(
        "generate", bundle("heads"), "a red circle", "-o", first, *options, "--eta", 0.5,
        "--negative-prompt", "a star", "--num-images", 2,
    )  # fmt: skip
    assert done.status == 0, done.err
    source = tmp_path / "first-1.png"
    assert run("generate", bundle("heads"), "--from", source, "-o", again).status == 0
    assert np.array_equal(pixels(again), pixels(source))
    assert not np.array_equal(pixels(again), pixels(tmp_path / "first-0.png"))


def test_generate_from_a_png_but_for_an_option_is_as_if_all_were_given(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    first, again, whole = (tmp_path / n for n in ("first.png", "again.png", "whole.png"))
    common = ("generate", bundle("heads"))
    options = ("--size", "72x64", "--guidance-scale", 3, "--sampler", "ddim", "--seed", 6)
    done = run(*common, "a red circle", "-o", first, "--steps", 3, *options)
    assert done.status == 0, done.err
    changed = ("--steps", 2, "--negative-prompt", "a star")
    assert run(*common, "--from", first, "-o", again, *changed).status == 0
    assert run(*common, "a red circle", "-o", whole, *options, *changed).status == 0
    assert np.array_equal(pixels(again), pixels(whole))
    assert not np.array_equal(pixels(again), pixels(first))
    nothing = run(*common, "-o", again)
    assert (nothing.status, "prompt: expected text, or --from" in nothing.err) == (2, True)


def test_saved_latents_start_the_same_picture(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    first, again, noise = (tmp_path / n for n in ("a.png", "b.png", "noise.npy"))
    common = ("generate", bundle("heads"), "a red circle", "--steps", 2)
    assert run(*common, "-o", first, "--save-latents", noise, "--seed", 4).status == 0
    assert np.load(noise).shape == (1, 4, 8, 8)
    assert run(*common, "-o", again, "--latents", noise, "--seed", 9).status == 0
    assert np.array_equal(pixels(first), pixels(again))
    # The picture names its latents by hash, and is made again only with them.
    lost = run("generate", bundle("heads"), "--from", again, "-o", first)
    assert (lost.status, "latents" in lost.err) == (2, True)
    found = run("generate", bundle("heads"), "--from", again, "-o", first, "--latents", noise)
    assert found.status == 0


def test_json_is_one_object_and_nothing_else(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    done = run(
        *("generate", bundle("heads"), "red " * 100, "-o", out, "--steps", 1, "--seed", 3),
        *("--syntax", "plain", "--json"),
    )
    value = json.loads(done.out)
    assert value["files"] == [str(out)]
    assert value["request"]["seed"] == 3
    assert value["notes"][0].startswith("prompt: cut after 75 tokens")
    assert set(value["seconds"]) == {"compile", "text", "unet", "vae", "total"}
    for command in (("inspect", bundle("heads")), ("doctor",), ("compare", bundle("heads"))):
        done = run(*command, "--json")
        assert done.status == 0
        json.loads(done.out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", 0), "steps: expected an integer of at least 1, got 0"),
        (("--size", "100x100"), "multiples of 8, such as 96x96 or 104x104, got 100x100"),
        (("--size", "big"), "size: expected WIDTHxHEIGHT such as 512x512, got 'big'"),
        (("--guidance-scale", "nan"), "guidance scale: expected a finite number"),
        (("--guidance-scale", "x"), "guidance-scale"),
        (
            ("--sampler", "eular"),
            "sampler: expected euler or another that `latentrt samplers` lists",
        ),
        (("--schedule", "caras"), "schedule: expected one of"),
        (("--steps", 5000), "steps: expected an integer from 1 to 1000"),
        (("--seed", -2), "seed: expected"),
        (("--engine", "cuda"), "engine: expected one of auto, onnxruntime, "),
        (("--precision", "int3"), "int3"),
        (("--latents", "/nowhere.npy"), "/nowhere.npy: no such file"),
        (("--option", "threads=0"), "threads: expected an integer from 1 to 4096, got 0"),
        (("--option", f"threads={10**20}"), "threads: expected an integer from 1 to 4096, got '1"),
        (("--original-size", "big"), "original-size: expected WIDTHxHEIGHT"),
        (("--from", "/nowhere.png"), "/nowhere.png: no such file"),
        (("--sampler", "heun", "--brownian"), "brownian: expected a sampler that follows a path"),
        (("--sampler", "lcm", "--schedule", "karras"), "schedule: expected none with LCMScheduler"),
        (("--sampler", "edm_euler"), "sampler: expected no EDM sampler"),
        (("--sampler", "heun", "--eta", 0.5), "eta: expected none with HeunDiscreteScheduler"),
        (("--schedule", "trailing", "--rho", 5), "rho: expected none but with schedule karras"),
        (("--sampler", "euler", "--sigmas", "1,2,3"), "sigmas: expected at least two falling"),
        (("--timesteps", "a,b"), "timesteps: expected numbers with commas between, got 'a,b'"),
        (("--guidance-interval", "1"), "guidance-interval: expected LOW,HIGH, got '1'"),
        (("--compose", "a dog"), "compose: expected PROMPT=WEIGHT, got 'a dog'"),
        (("--crop", "5"), "crop: expected TOP,LEFT in pixels, got '5'"),
        (("--crop", "5,5"), "crop: expected none: this model takes no sizes"),
        (("--generator", "dice"), "generator: expected one of torch, torch-cuda, numpy"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_bad_options_give_one_line_status_2_and_no_file(
    run: Run,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    options: tuple[object, ...],
    message: str,
) -> None:
    out = tmp_path / "out.png"
    done = run("generate", bundle("heads"), "a red circle", "-o", out, *options)
    assert done.status in ((1, 2) if "int3" in options else (2,))
    errors = [line for line in done.err.splitlines() if line.startswith("latentrt: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["/proc/out.png", "file/out.png", "."])
def test_an_output_that_cannot_be_written_is_said_before_the_work(
    run: Run,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    done = run("generate", bundle("heads"), "a", "-o", target)
    assert done.status == 2
    assert done.err.startswith("latentrt: output: expected a")
    assert len(done.err.splitlines()) == 1


def test_a_missing_or_half_bundle_is_named(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    missing = run("generate", tmp_path / "none", "a", "-o", tmp_path / "o.png")
    assert (missing.status, "no such bundle folder" in missing.err) == (2, True)
    half = tmp_path / "half"
    shutil.copytree(bundle("heads"), half)
    (half / "weights" / "vae.safetensors").unlink()
    broken = run("generate", half, "a", "-o", tmp_path / "o.png")
    assert broken.status == 2
    assert "vae.safetensors: is listed in the manifest but missing" in broken.err


def test_export_refuses_what_is_no_checkpoint_and_leaves_nothing(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    nothing = run("export", tmp_path / "none", tmp_path / "bundle")
    assert (nothing.status, "no such checkpoint folder" in nothing.err) == (2, True)
    unknown = run("export", "random:sd99", tmp_path / "bundle")
    assert (unknown.status, "random:sd15" in unknown.err) == (2, True)
    cut = tmp_path / "cut"
    shutil.copytree(checkpoint("heads"), cut)
    weights = cut / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    truncated = run("export", cut, tmp_path / "bundle")
    assert (truncated.status, "truncated" in truncated.err) == (2, True)
    dtype = run("export", cut, tmp_path / "bundle", "--dtype", "fp8")
    assert (dtype.status, "dtype: expected one of fp32, fp16" in dtype.err) == (2, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut"]


def test_export_says_what_is_no_checkpoint_before_pytorch_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "latentrt.export.export", None)
    for source in (tmp_path / "none", tmp_path):
        refused = run("export", source, tmp_path / "bundle")
        assert (refused.status, refused.err.count("\n")) == (2, 1)
        assert f"latentrt: {source}: " in refused.err


def test_inspect_describes_bundles_and_checkpoints(
    run: Run, bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    described = json.loads(run("inspect", bundle("lists"), "--verify", "--json").out)
    assert described["prediction_type"] == "v_prediction"
    assert described["size"] == "64x64"
    assert described["components"]["unet"]["inputs"]["timestep"] == "(batch) float32"
    described = json.loads(run("inspect", checkpoint("lists"), "--json").out)
    assert described["components"]["unet"]["class"] == "UNet2DConditionModel"
    assert "unet" in run("inspect", bundle("heads")).out


def test_compare_passes_on_the_goldens_and_fails_on_changed_weights(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    good = json.loads(run("compare", bundle("heads"), "--engine", "onnxruntime", "--json").out)
    assert good["passed"]
    (good,) = good["comparisons"]
    assert good["first_bad_step"] is None
    assert [r["name"] for r in good["steps"]] == [f"step {i}" for i in range(4)]
    assert good["picture_psnr"] is None or good["picture_psnr"] > 55
    assert all(math.isfinite(r["relative"]) for r in (*good["components"], *good["steps"]))

    spoiled = tmp_path / "spoiled"
    shutil.copytree(bundle("heads"), spoiled)
    swap_two_rows(spoiled / "weights" / "unet.safetensors", "conv_in.weight")
    forge_hash(spoiled, "weights/unet.safetensors")
    done = run("compare", spoiled, "--engine", "onnxruntime")
    assert done.status == 3
    assert "first step out of tolerance: 0" in done.out
    unet = next(line for line in done.out.splitlines() if line.split()[:1] == ["unet"])
    assert "FAILED" in unet
    text = next(line for line in done.out.splitlines() if line.split()[:1] == ["text_encoder"])
    assert "FAILED" not in text


def swap_two_rows(path: Path, name: str) -> None:
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + length])[name]
    begin, end = (8 + length + n for n in entry["data_offsets"])
    row = (end - begin) // entry["shape"][0]
    a, b = raw[begin : begin + row], raw[begin + row : begin + 2 * row]
    raw[begin : begin + 2 * row] = b + a
    path.write_bytes(raw)


def forge_hash(folder: Path, name: str) -> None:
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest["files"][name]["sha256"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_interrupt_is_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latentrt.cli.doctor.diagnose", interrupt)
    assert run("doctor").status == 130


def test_help_lists_every_command_and_each_has_its_own() -> None:
    done = subprocess.run([*LATENTRT, "--help"], capture_output=True, text=True, check=True)
    for command in ("export", "generate", "inspect", "compare", "samplers", "doctor"):
        assert command in done.stdout
        own = subprocess.run([*LATENTRT, command, "-h"], capture_output=True, text=True, check=True)
        assert "Usage:" in own.stdout


def test_without_a_command_the_help_keeps_its_lines(run: Run) -> None:
    alone, asked = run(), run("--help")
    assert (alone.status, alone.out, asked.status, asked.err) == (2, "", 0, "")
    assert alone.err == asked.out
    assert alone.err.splitlines()[0] == "Usage: latentrt [OPTIONS] COMMAND [ARGS]..."


def test_version_is_the_installed_one(run: Run) -> None:
    assert run("--version") == (0, f"latentrt {metadata.version('latentrt')}\n", "")


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("genrate", "x"), "generate"),
        (("generate", "b", "x", "--stps", 3), "--steps"),
        (("inspect", "x", "--jsn"), "--json"),
        (("bench", "b", "--arivals", 3), "--arrivals"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(
    run: Run, words: tuple[object, ...], nearest: str
) -> None:
    done = run(*words)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert nearest in done.err


def test_a_missing_bundle_argument_is_named_rather_than_the_prompt(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    done = run("generate", "a red circle")
    assert done.status == 2
    assert done.err.startswith("latentrt: bundle: expected a bundle or a checkpoint, then the pro")
    swapped = run("generate", "a red circle", bundle("heads"))
    assert swapped.status == 2
    assert "bundle: expected the bundle before the prompt" in swapped.err


def test_compare_says_of_a_checkpoint_which_command_makes_a_bundle(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    single = tmp_path / "model.safetensors"
    single.touch()
    done = run("compare", folder)
    assert done.status == 2
    assert f"latentrt export '{folder}' BUNDLE" in done.err
    done = run("compare", single)
    assert done.status == 2
    assert "is a checkpoint in one file" in done.err


@pytest.mark.parametrize("command", ["generate", "build", "bench", "samplers"])
def test_commands_say_what_is_wrong_with_a_checkpoint(
    run: Run, tmp_path: Path, command: str
) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    single = tmp_path / "model.safetensors"
    single.touch()
    more = ("a red circle",) if command == "generate" else ()
    done = run(command, folder, *more)
    assert done.status == 2
    assert "model_index.json: architecture None is not supported" in done.err
    done = run(command, single, *more)
    assert done.status == 2
    assert "model.safetensors: is not a safetensors file: it is empty" in done.err


def test_export_of_a_bundle_says_that_it_is_one(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run("export", bundle("heads"), tmp_path / "b")
    assert (done.status, "is a bundle already" in done.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_error_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = []

    def fail() -> None:
        raise errors[-1]

    monkeypatch.setattr("latentrt.cli.doctor.diagnose", fail)
    for error, told in (
        (TypeError("a\nb"), "unexpected TypeError: a b"),
        (MemoryError(), "memory: "),
        (EOFError(), "unexpected EOFError"),
        (OSError(28, "No space left on device", "/x/y"), "/x/y: No space left on device"),
    ):
        errors.append(error)
        done = run("doctor")
        assert (done.status, done.out, len(done.err.splitlines())) == (1, "", 1)
        assert told in done.err
    monkeypatch.setenv("LATENTRT_TRACEBACK", "1")
    errors.append(TypeError("shown"))
    with pytest.raises(TypeError, match="shown"):
        run("doctor")


def test_options_of_sampling_and_guidance_reach_the_picture(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    out, again = tmp_path / "out.png", tmp_path / "again.png"
    options = (
        "--sampler", "dpmpp_2m_sde", "--sigmas", "14,3,0.5,0", "--seed", 3,
        "--guidance-interval", "1,20", "--compose", "a star=0.5", "--compose", "a=b=-1",
        "--generator", "numpy", "--brownian",
    )  # fmt: skip
    done = run("generate", bundle("heads"), "a red circle", "-o", out, *options, "--json")
    assert done.status == 0, done.err
    request = json.loads(done.out)["request"]
    assert request["sampling"]["sigmas"] == [14.0, 3.0, 0.5, 0.0]
    assert request["sampling"]["brownian"] is True
    assert request["guidance"]["interval"] == [1.0, 20.0]
    assert request["composed"] == [["a star", 0.5], ["a=b", -1.0]]
    assert request["generator"] == "numpy"
    assert run("generate", bundle("heads"), "--from", out, "-o", again).status == 0
    assert np.array_equal(pixels(again), pixels(out))


def test_size_inputs_of_sdxl_change_its_picture(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    common = ("generate", bundle("xl"), "a red circle", "--steps", 2, "--seed", 1)
    told = {
        "own": (),
        "same": ("--original-size", "64x64", "--crop", "0,0", "--target-size", "64x64"),
        "original": ("--original-size", "512x256"),
        "crop": ("--crop", "9,0"),
        "target": ("--target-size", "32x64"),
    }
    for name, options in told.items():
        assert run(*common, "-o", tmp_path / f"{name}.png", *options).status == 0
    found = {name: pixels(tmp_path / f"{name}.png") for name in told}
    assert np.array_equal(found["own"], found["same"])
    for name in ("original", "crop", "target"):
        assert not np.array_equal(found["own"], found[name])


def test_samplers_lists_every_name_that_generate_takes(run: Run) -> None:
    rows = json.loads(run("samplers", "--json").out)
    assert [row["name"] for row in rows] == list(CATALOGUE)
    done = run("samplers")
    assert done.status == 0
    heading, *table = done.out.splitlines()
    assert [name.strip() for name in heading.split("  ") if name] == [
        "sampler",
        "web UI",
        "diffusers class",
        "schedules",
    ]
    for row in rows:
        (line,) = [each for each in table if each.split()[0] == row["name"]]
        # Each cell begins where its heading does.
        assert line.startswith(row["name"])
        assert line.startswith(row["class"], heading.index("diffusers"))
        schedules = ", ".join(row["schedules"]) or "-"
        assert line[heading.index("schedules") :].strip() == schedules


def test_samplers_of_a_bundle_are_those_that_can_draw_from_it(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    rows = json.loads(run("samplers", bundle("heads"), "--json").out)
    assert [r["name"] for r in rows] == [n for n in CATALOGUE if not n.startswith("edm")]
    assert run("samplers", bundle("heads") / "no").status == 2


def test_doctor_says_what_never_ran_on_its_hardware(run: Run) -> None:
    assert "unverified: generator torch-cuda" in run("doctor").out
