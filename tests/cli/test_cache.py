"""`latentrt cache`: beside the engines, what builds measured."""

from __future__ import annotations

import json
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
