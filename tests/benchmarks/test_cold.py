"""Cold starts: two processes over one cache, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.latency import cold
from latentrt.benchmarks.latency.cold import ColdStart, cold_starts
from latentrt.benchmarks.latency.workload import Workload
from latentrt.bundle.errors import EngineError
from latentrt.runtime import Request, Sampling

Bundles = Callable[[str], Path]


def workload(bundle: Bundles) -> Workload:
    request = Request("a red circle", seed=1, sampling=Sampling(steps=1))
    return Workload(bundle("heads"), {"engine": "onnxruntime"}, request)


def test_the_first_start_builds_engines_and_the_second_loads_them(bundle: Bundles) -> None:
    first, second = cold_starts(workload(bundle))
    assert (first.cache, first.built, first.problem) == ("empty", True, "")
    assert (second.cache, second.built, second.problem) == ("filled", False, "")
    assert (first.note, second.note) == ("", "")
    for start in (first, second):
        assert min(start.import_, start.open_, start.engines, start.image) > 0
        assert start.total == start.import_ + start.open_ + start.engines + start.image


def test_a_start_that_fails_or_builds_again_is_a_note(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> dict[str, Any]:
        raise EngineError("process: ended by SIGKILL: no message")

    monkeypatch.setattr(cold, "answer_of", killed)
    for start in cold_starts(workload(bundle)):
        assert start.built is None
        assert start.note.endswith("cache: process: ended by SIGKILL: no message")
    again = "cold start, filled cache: engines were compiled again instead of loaded"
    assert ColdStart("filled", built=True).note == again
    assert ColdStart("empty", built=True).note == ""
