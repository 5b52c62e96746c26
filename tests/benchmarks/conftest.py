"""A contestant that is no library: it says what it is told to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.peers.peer_process import Contestant

# A contestant that is told what to answer: its seconds one after the other, the value of its
# pixels, and what goes wrong.
FAKE = """
import json, os, sys, time

spec = json.load(open(sys.argv[1]))

def note(event):
    with open(spec["diary"], "a") as diary:
        print(spec["name"], event, file=diary)

if "--runs" in sys.argv:
    if spec.get("fails") == "alone":
        sys.exit("no such model")
    note("alone")
    for took in spec["alone"]:
        print(f"{took:.4f} s")
    sys.exit(print("median 1.0000 s per picture"))

note("starts")
if spec.get("fails") == "first":
    sys.exit("one line\\nno such model")
ready = {"versions": {"fake": "1"}, "settings": {"fast": "yes"}, "first": 0.5, "rss_peak": 1000}
print("{" if spec.get("fails") == "babble" else json.dumps(ready), flush=True)
seconds = iter(spec["seconds"])
for line in sys.stdin:
    word, _, path = line.strip().partition(" ")
    note(word)
    if word == "save":
        import numpy
        numpy.save(path, numpy.full((1, 3, 2, 2), spec["value"], dtype=numpy.float32))
        print(json.dumps({"saved": path}), flush=True)
        continue
    took = next(seconds)
    if took is None and spec["fails"] == "hang":
        time.sleep(600)
    if took is None:
        os.abort()
    stages = {"text": took / 8, "unet": took / 2, "decode": took / 4}
    peak = spec.get("peak", 2000)
    print(json.dumps({"seconds": took, "stages": stages, "rss_peak": peak}), flush=True)
note("ends")
"""


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Contestant]:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def make(
        name: str, seconds: Sequence[float | None], value: float = 0.5, **more: Any
    ) -> Contestant:
        spec = {"name": name, "seconds": seconds, "value": value, "diary": str(tmp_path / "diary")}
        return Contestant(name, "fp32", (sys.executable, str(script)), {**spec, **more})

    return make
