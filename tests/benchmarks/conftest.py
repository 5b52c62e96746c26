"""A participant that is no library: it answers what its spec says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.peers.participants import Participant

# Told what to answer: the seconds of each image, the value of its pixels, and what goes wrong.
FAKE = """
import json, os, sys, time

spec = json.load(open(sys.argv[1]))

def note(event):
    with open(spec["diary"], "a") as diary:
        print(spec["name"], event, file=diary)

note("starts")
if spec.get("fails") == "first":
    sys.exit("one line\\nno such model")
print(json.dumps({"versions": {"fake": "1"}, "settings": {"fast": "yes"}}), flush=True)
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
    if took is None:
        os.abort()
    stages = {"text": took / 8, "unet": took / 2, "decode": took / 4}
    print(json.dumps({"seconds": took, "stages": stages, "rss_peak": 2000}), flush=True)
note("ends")
"""


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Participant]:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def make(
        name: str, seconds: Sequence[float | None], value: float = 0.5, **more: Any
    ) -> Participant:
        spec = {"name": name, "seconds": seconds, "value": value, "diary": str(tmp_path / "diary")}
        return Participant(name, "fp32", (sys.executable, str(script)), {**spec, **more})

    return make
