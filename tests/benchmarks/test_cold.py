"""Starts from nothing: whether engines were built or loaded is what the process saw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks import child
from latentrt.benchmarks.latency import cold
from latentrt.benchmarks.latency.cold import Cold, cold_starts
from latentrt.benchmarks.latency.noted_cache import NotedCache
from latentrt.benchmarks.latency.subject import Subject
from latentrt.bundle.cache_folder import VARIABLE
from latentrt.runtime import Request, Sampling

Bundles = Callable[[str], Path]


def subject(bundle: Bundles) -> Subject:
    request = Request("a red circle", seed=1, sampling=Sampling(steps=1))
    return Subject(bundle("heads"), "onnxruntime", "fp32", {}, {}, request)


def test_a_cache_remembers_of_each_engine_whether_it_was_there(
    bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    one = subject(bundle)
    seen: list[list[bool]] = []
    for gone in (False, False, True):
        if gone:
            shutil.rmtree(next((tmp_path / "engines").iterdir()))
        cache = NotedCache()
        with one.open(cache) as pipeline:
            pipeline(one.request)
        seen.append(cache.hits)
    # Text encoder, U-Net, VAE decoder; of the third time, one of them had been removed.
    assert seen[:2] == [[False] * 3, [True] * 3]
    assert sorted(seen[2]) == [False, True, True]


def rows(*found: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """What the processes find, one after the other."""
    given = iter(found)
    return lambda *_: next(given)


def test_a_start_is_called_what_it_did_and_not_what_it_should_have_done(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"imports": 1.0, "opens": 2.0, "engines": 3.0, "picture": 4.0, "memory": 5}
    monkeypatch.setattr(child, "child", rows({"hit": False, **parts}, {"hit": False, **parts}))
    first, second = cold_starts(subject(bundle))
    assert (first.name, first.note) == ("empty cache, built", "")
    assert second.name == "filled cache, built"
    assert second.note.startswith("cold start: engines were built again")
    assert second.total == 10.0
    monkeypatch.setattr(
        child, "child", rows({"hit": False, **parts}, {"problem": "ended by SIGKILL"})
    )
    _, second = cold_starts(subject(bundle))
    assert (second.name, second.hit) == ("filled cache, failed", None)
    assert second.note == "cold start: ended by SIGKILL"
    assert Cold("filled", True).note == ""


def test_the_process_says_whether_it_loaded_its_engines(
    bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    described = tmp_path / "subject.json"
    described.write_text(json.dumps(subject(bundle).to_json()))
    assert [cold.measure(described)["hit"] for _ in range(2)] == [False, True]
