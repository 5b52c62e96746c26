"""`latentrt build` and `latentrt cache`, and pipelines that find their engines built."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from tests.cli.outcome import Run

from latentrt.bundle.errors import ShapeNotBuilt
from latentrt.engines.cache.cache import Cache
from latentrt.engines.verification.tolerances import TOLERANCES, Tolerance
from latentrt.runtime import Guidance, Pipeline, Request, Sampling, Size

REQUEST = Request("a red circle", seed=1, sampling=Sampling(steps=1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test."""
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_pictures_of_the_built_sizes_need_no_other_engine(
    run: Run, bundle: Callable[[str], Path], engine: str
) -> None:
    options = ("--size", "64x64", "--size", "72x56", "--batch", "1,2", "--engine", engine)
    status, out, err = run("build", bundle("heads"), *options)
    assert status == 0, err
    # One text encoder; two sizes of U-Nets at two batches, of decoders and of encoders.
    assert len(out.splitlines()) == 1 + 4 + 2 + 2
    assert "100 %" in err
    with Pipeline.open(bundle("heads"), engine=engine, build="never") as pipeline:
        for size in (Size(64, 64), Size(72, 56)):
            for scale in (1.0, 5.0):
                request = REQUEST.with_values(size=size, guidance=Guidance(scale))
                assert pipeline(request).images[0].size == (size.width, size.height)
    status, out, _ = run("build", bundle("heads"), *options, "--json")
    assert [row["hit"] for row in json.loads(out)] == [True] * 9


def test_an_engine_that_must_not_be_built_is_named_with_the_command_that_builds_it(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    request = REQUEST.with_values(size=Size(72, 56))
    run("build", bundle("heads"), "--engine", "openvino")
    with Pipeline.open(bundle("heads"), engine="openvino", build="never") as pipeline:
        assert pipeline(REQUEST).images
        with pytest.raises(ShapeNotBuilt) as raised:
            pipeline(request)
        message, _, command = str(raised.value).rpartition("; ")
        assert message.startswith("unet: not built: sizes batch=2 height=8")
        assert command.startswith("latentrt build ")
        status, _, err = run(*command.split()[1:])
        assert status == 0, err
        assert pipeline(request).images


def test_engines_of_long_prompts_are_built_ahead(run: Run, bundle: Callable[[str], Path]) -> None:
    request = REQUEST.with_values(prompt="red " * 80)
    options = ("--size", "64x64", "--batch", "2", "--engine", "onnxruntime")
    run("build", bundle("heads"), *options)
    with Pipeline.open(bundle("heads"), engine="onnxruntime", build="never") as pipeline:
        with pytest.raises(ShapeNotBuilt) as raised:
            pipeline(request)
        _, _, command = str(raised.value).rpartition("; ")
        assert command.endswith("--size 64x64 --batch 2 --chunks 2")
        status, out, err = run(*command.split()[1:])
        assert status == 0, err
        assert "sequence=154" in out
        assert pipeline(request).images


@pytest.mark.parametrize("chunks", ["0", "1,33"])
def test_chunks_beyond_those_of_a_prompt_are_refused(
    run: Run, bundle: Callable[[str], Path], chunks: str
) -> None:
    status, _, err = run("build", bundle("heads"), "--chunks", chunks)
    assert status == 2
    assert f"chunks: expected numbers from 1 to 32, got {chunks.split(',')[-1]}" in err


LATENT = {"height": 7, "width": 9}
PIXELS = {"image_height": 56, "image_width": 72}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["default", "other cache"])
@pytest.mark.parametrize(
    ("component", "sizes"),
    [
        ("unet", {"batch": 3, **LATENT, "sequence": 77}),
        ("vae_decoder", {"batch": 3, **LATENT}),
        ("vae_encoder", {"batch": 1, **PIXELS}),
    ],
)
def test_the_command_that_is_named_builds_the_engine_that_is_missing(
    run: Run,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    sizes: dict[str, int],
    elsewhere: bool,
) -> None:
    place = tmp_path / "an other" if elsewhere else None
    with Pipeline.open(bundle("heads"), engine="openvino", build="never", cache=place) as pipeline:
        with pytest.raises(ShapeNotBuilt) as raised:
            pipeline.engine(component, sizes)
        words = shlex.split(str(raised.value).rpartition("; ")[2])
        if elsewhere:  # as a shell does
            monkeypatch.setenv(*words.pop(0).split("="))
        assert words.pop(0) == "latentrt"
        status, _, err = run(*words)
        assert status == 0, err
        assert pipeline.engine(component, sizes).component == component


def test_the_command_that_is_named_makes_a_decoder_of_several_pictures_work(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    run("build", bundle("heads"), "--engine", "openvino")
    latents = np.random.default_rng(0).standard_normal((3, 4, 8, 8), np.float32)
    with Pipeline.open(bundle("heads"), engine="openvino", build="never") as pipeline:
        alone = [pipeline.decode(latents[i : i + 1]) for i in range(3)]
        with pytest.raises(ShapeNotBuilt, match="--size 64x64 --decode-batch 3") as raised:
            pipeline.decode(latents)
        run(*shlex.split(str(raised.value).rpartition("; ")[2])[1:])
        # The guard has held both to 4e-5 of PyTorch, so that they are within 8e-5 of each other.
        assert np.allclose(pipeline.decode(latents), np.concatenate(alone), rtol=0, atol=8e-5)


@pytest.mark.parametrize("as_json", [False, True])
def test_refused_engines_are_rows_of_the_table_and_the_status_is_3(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    strict = replace(TOLERANCES["fp32"], unet=1e-12)
    monkeypatch.setitem(cast("dict[str, Tolerance]", TOLERANCES), "fp32", strict)
    words = ["build", bundle("heads"), "--engine", "openvino", *(["--json"] if as_json else [])]
    status, out, _ = run(*words)
    assert status == 3
    if as_json:
        rows = json.loads(out)
        refused = {row["component"]: row["problem"] for row in rows if row["problem"]}
        assert len(rows) == 5
        assert list(refused) == ["unet"]
        assert "1.0e-12 is allowed" in refused["unet"]
        return
    lines = out.splitlines()
    refused = [line for line in lines if ": refused: " in line]
    assert len(lines) == 5
    assert [line.split()[:2] for line in refused] == [["unet", "batch=1"], ["unet", "batch=2"]]
    for line in refused:
        assert "openvino fp32, unet: model_output is" in line
        assert line.endswith("1.0e-12 is allowed")
    assert sum(": built in " in line for line in lines) == 3


def test_building_needs_no_pytorch(bundle: Callable[[str], Path], cache: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from latentrt.cli.main import main\n"
        f"sys.argv = ['latentrt', 'build', {str(bundle('heads'))!r}, '--batch', '2']\n"
        "main()\n"
        "assert not {'onnx', 'transformers', 'diffusers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Cache(cache).entries()


def test_the_cache_is_listed_limited_and_removed(
    run: Run, bundle: Callable[[str], Path], cache: Path
) -> None:
    status, out, _ = run("cache")
    assert (status, out) == (0, f"0 engines, 0 B in {cache}\n")
    run("build", bundle("heads"), "--engine", "openvino", "--batch", "2")
    status, out, _ = run("cache", "--json")
    listed = json.loads(out)
    assert {row["component"] for row in listed["engines"]} == {
        "text_encoder", "unet", "vae_decoder", "vae_encoder",
    }  # fmt: skip
    assert listed["bytes"] == sum(row["bytes"] for row in listed["engines"])
    unet = next(row for row in listed["engines"] if row["component"] == "unet")
    assert (unet["engine"], unet["precision"]) == ("openvino", "fp32")
    assert unet["sizes"] == "batch=2 height=8 sequence=77 width=8"
    assert unet["verification"]["reference"] == "the goldens"
    assert unet["used"] > 1.7e9
    status, out, _ = run("cache")
    assert "unet" in out
    limit = listed["bytes"] - 1
    _, out, _ = run("cache", "--limit", limit, "--json")
    left = json.loads(out)
    assert len(left["removed"]) == 1
    assert left["removed"][0]["component"] == "text_encoder"  # built first, used last
    assert left["bytes"] + left["removed_bytes"] == listed["bytes"]
    _, out, _ = run("cache", "--remove", "--json")
    assert json.loads(out)["engines"] == []
    assert Cache(cache).entries() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "BUNDLE", "--size", "60x64"), "size: expected width and height in multiples"),
        (("build", "BUNDLE", "--size", "big"), "size: expected WIDTHxHEIGHT"),
        (("build", "BUNDLE", "--batch", "0"), "batch: expected numbers from 1 to 1024, got 0"),
        (("build", "BUNDLE", "--decode-batch", "1,0"), "decode-batch: expected numbers from 1"),
        (("build", "BUNDLE", "--batch", "9" * 20), "batch: expected numbers from 1 to 1024"),
        (("build", "BUNDLE", "--batch", "1,x"), "batch: expected whole numbers"),
        (("build", "BUNDLE", "--engine", "cuda"), "engine: expected one of auto"),
        (("cache", "--limit", "much"), "limit: expected a size such as 5GB or 500MB"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Run,
    bundle: Callable[[str], Path],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    named = [str(bundle("heads")) if a == "BUNDLE" else a for a in arguments]
    status, _, err = run(*named)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
