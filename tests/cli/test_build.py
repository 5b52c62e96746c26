"""`latentrt build` and `latentrt cache`, and pipelines that find their engines built."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.outcome import Run

from latentrt.bundle.errors import ShapeNotBuilt
from latentrt.engines.cache import Cache
from latentrt.runtime import Guidance, Pipeline, Request, Sampling, Size

REQUEST = Request("a red circle", seed=1, sampling=Sampling(steps=1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test."""
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_was_built_is_all_that_pictures_of_these_sizes_need(
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
    assert Cache(cache).artefacts()


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
    assert Cache(cache).artefacts() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "BUNDLE", "--size", "60x64"), "size: expected width and height in multiples"),
        (("build", "BUNDLE", "--size", "big"), "size: expected WIDTHxHEIGHT"),
        (("build", "BUNDLE", "--batch", "0"), "batch: expected at least 1, got 0"),
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
