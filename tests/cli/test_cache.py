"""`latentrt cache`: beside the engines, what builds measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.outcome import Run


def test_timings_of_builds_are_listed_and_go_with_everything(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path))
    (tmp_path / "timings").mkdir()
    (tmp_path / "timings" / "tensorrt-11-sm90.cache").write_bytes(b"0" * 2000)
    (tmp_path / "timings" / ".tensorrt-11-sm90.cache.partial-abc").write_bytes(b"0")
    names = {"tensorrt-11-sm90.cache": 2000, ".tensorrt-11-sm90.cache.partial-abc": 1}
    _, out, _ = run("cache", "--json")
    assert json.loads(out)["timings"] == names
    _, out, _ = run("cache")
    assert "timings of builds: tensorrt-11-sm90.cache, 2.0 kB" in out.splitlines()
    _, out, _ = run("cache", "--limit", "0", "--json")
    assert json.loads(out)["timings"] == names
    _, out, _ = run("cache", "--remove", "--json")
    found = json.loads(out)
    assert (found["timings"], found["removed_timings"]) == ({}, names)
    assert not list((tmp_path / "timings").iterdir())


@pytest.mark.parametrize("limit", ["9" * 400, "1e400", "-1", "٣GB"])
def test_a_limit_that_is_no_size_is_refused(run: Run, limit: str) -> None:
    status, _, err = run("cache", f"--limit={limit}")
    assert (status, err.splitlines()[0].startswith("latentrt: limit: expected a size")) == (2, True)


def test_pictures_are_drawn_where_there_can_be_no_cache_and_builds_are_refused(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, picture = str(bundle("heads")), tmp_path / "out.png"
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "file" / "cache"))
    own = ["--engine", "onnxruntime"]
    status, _, err = run("generate", folder, "a", "-o", str(picture), "--steps", "1", *own)
    assert status == 0
    assert picture.is_file()
    assert err.count("$LATENTRT_CACHE") == 1
    status, _, err = run("build", folder, *own)
    assert status == 2
    assert "cache: expected a folder that can be written ($LATENTRT_CACHE), got" in err


def test_no_folder_for_a_cache_is_one_line_that_names_the_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", "~nobody-of-that-name/cache")
    status, _, err = run("cache")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "$LATENTRT_CACHE" in err


def test_the_limit_counts_bundles_and_variants_and_removes_the_longest_unused(
    run: Run, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path))
    vae = checkpoint("heads@1") / "vae" / "diffusion_pytorch_model.safetensors"
    options = ("--steps", 1, "--size", "64x64", "--engine", "onnxruntime", "--vae", vae)
    command = ("generate", checkpoint("heads"), "a", "-o", tmp_path / "a.png", *options)
    assert run(*command).status == 0
    listed = json.loads(run("cache", "--json").out)
    bundle, variant = listed["made"]
    assert {bundle["kind"], variant["kind"]} == {"bundle", "variant"}
    records = sorted(tmp_path.glob("*/*/record")) + sorted(tmp_path.glob("*/*/*.json"))
    for record in records:  # the variant, then engines, then the bundle
        named = {"variant.json": 1000, "made_from.json": 3000}.get(record.name, 2000)
        os.utime(record, (named, named))
    total = listed["bytes"] + bundle["bytes"] + variant["bytes"]
    same = json.loads(run("cache", "--limit", total, "--json").out)
    assert (same["removed"], same["removed_made"], len(same["made"])) == ([], [], 2)
    first = json.loads(run("cache", "--limit", total - 1, "--json").out)
    assert [each["kind"] for each in first["removed_made"]] == ["variant"]
    assert (first["removed"], len(first["engines"])) == ([], len(listed["engines"]))
    bundles = {each["bytes"] for each in listed["made"] if each["kind"] == "bundle"}
    last = json.loads(run("cache", "--limit", bundles.pop(), "--json").out)
    assert (len(last["removed"]), last["engines"]) == (len(listed["engines"]), [])
    assert [each["kind"] for each in last["made"]] == ["bundle"]
    # A variant that is used again is as if new.
    assert run(*command).status == 0
    (record,) = tmp_path.glob("variants/*/variant.json")
    os.utime(record, (1000, 1000))
    assert run(*command).status == 0
    assert record.stat().st_mtime > 1000
