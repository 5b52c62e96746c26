"""What the scripts beside this one share: reading a task, drawing on request, timing.

    python benchmarks/peers/NAME.py SPEC.json --runs 5     seconds per picture, for a person
    python benchmarks/peers/NAME.py SPEC.json --serve      a line of JSON for every line of input

With --serve, a script answers one line when it has drawn its first picture. Then it answers one for
every `go` (a picture) and every `save PATH` (the last picture, .npy, float32 [1, 3, height, width]
in [-1, 1]), until its input ends. Nothing but these lines goes to standard output.

Nothing of latentrt is imported: these scripts run where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

# ONNX Runtime would report to its maker, and so would OpenVINO, which takes a stub of its own
# without this package.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Spec:
    """One picture to draw; `model` is what the library's own exporter made of `checkpoint`."""

    checkpoint: str
    model: str
    prompt: str
    negative_prompt: str
    latents: str
    steps: int
    width: int
    height: int
    guidance_scale: float
    sampler: str
    precision: str
    device: str
    threads: int | None

    @staticmethod
    def read(path: Path) -> Spec:
        """From JSON; unknown keys are ignored."""
        stated = json.loads(path.read_text(encoding="utf-8"))
        return Spec(**{name: stated[name] for name in Spec.__annotations__})

    def noise(self) -> Any:
        """The starting noise, float32 [1, 4, h, w] of unit variance."""
        import numpy

        return numpy.load(self.latents)


@dataclass(frozen=True)
class Picture:
    """RGB as uint8 [height, width, 3], and the seconds of each component where they are known."""

    pixels: Any
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Peer:
    """A library made ready: what draws the picture, how it is set, and the packages it is."""

    draw: Callable[[], Picture]
    settings: Mapping[str, str]
    packages: tuple[str, ...]


def main(ready: Callable[[Spec], Peer]) -> None:
    """Make the library ready for a spec, then serve or measure it, as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    answers = _own_output()
    begun = time.perf_counter()
    peer = ready(Spec.read(options.spec))
    loaded = time.perf_counter()
    picture = peer.draw()
    first = time.perf_counter()
    found = {
        "versions": {name: _version(name) for name in peer.packages},
        "settings": dict(peer.settings),
        "load": loaded - begun,
        "first": first - loaded,
        "rss_peak": _peak(),
    }
    if options.serve:
        _answer(answers, found)
        _serve(peer, picture, answers)
    else:
        print(json.dumps(found, indent=1), file=answers)
        _measure(peer, options.runs, answers)


def _own_output() -> TextIO:
    # Libraries print what they like, from C++ too: all of it goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _serve(peer: Peer, picture: Picture, answers: TextIO) -> None:
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "go":
            begun = time.perf_counter()
            picture = peer.draw()
            seconds = time.perf_counter() - begun
            stages = dict(picture.stages)
            _answer(answers, {"seconds": seconds, "stages": stages, "rss_peak": _peak()})
        elif word == "save":
            _save(picture, Path(rest))
            _answer(answers, {"saved": rest})
        else:
            sys.exit(f"expected go or save PATH, got {line.strip()!r}")


def _measure(peer: Peer, runs: int, answers: TextIO) -> None:
    peer.draw()
    seconds: list[float] = []
    for _ in range(runs):
        begun = time.perf_counter()
        peer.draw()
        seconds.append(time.perf_counter() - begun)
        print(f"{seconds[-1]:.4f} s", file=answers, flush=True)
    print(f"median {statistics.median(seconds):.4f} s per picture", file=answers, flush=True)


def _answer(answers: TextIO, value: Mapping[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)


def _save(picture: Picture, path: Path) -> None:
    import numpy

    scaled = numpy.asarray(picture.pixels, dtype=numpy.float32) / 127.5 - 1.0
    numpy.save(path, scaled.transpose(2, 0, 1)[None])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _peak() -> int:
    """The most memory that the process ever had in RAM, in bytes."""
    path = Path("/proc/self/status")
    found = (
        re.search(r"VmHWM:\s+(\d+) kB", path.read_text(encoding="utf-8"))
        if path.is_file()
        else None
    )
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
