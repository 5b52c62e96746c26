"""latentrt as a contestant: a pipeline over a bundle that draws when it is told.

    python -m latentrt.benchmarks.peers.contestant SPEC.json --serve

The protocol is that of `latentrt.benchmarks.peers.peer_process`. What a picture takes beyond the
calls of engines is the runtime's own time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from latentrt.benchmarks.latency.stopwatch import Stages, Stopwatch
from latentrt.benchmarks.memory import Memory
from latentrt.bundle.bundle import Bundle
from latentrt.runtime import Request, Result, Sampling, Size

_PACKAGES: Final = ("latentrt", "numpy", "onnxruntime", "openvino")
_PARTS: Final = {"unet": "unet", "vae_decoder": "decode"}


def opened(spec: Mapping[str, Any]) -> Stopwatch:
    """The pipeline of a spec: its bundle, engine and precision, engines from the user's cache."""
    options = {} if spec["threads"] is None else {"threads": spec["threads"]}
    return Stopwatch(Bundle.open(spec["model"]), spec["engine"], spec["precision"], options)


def request_of(spec: Mapping[str, Any]) -> Request:
    """The picture that a spec asks for."""
    return Request(
        spec["prompt"],
        negative_prompt=spec["negative_prompt"],
        size=Size(spec["width"], spec["height"]),
        seed=0,  # the noise is given
        sampling=Sampling(spec["sampler"], steps=spec["steps"]),
        guidance=spec["guidance_scale"],
        latents=np.load(spec["latents"]),
    )


def main() -> None:
    """Make ready, then answer every line of standard input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--serve", action="store_true", required=True)
    spec = json.loads(parser.parse_args().spec.read_text(encoding="utf-8"))
    # Libraries may print what they like: all of it goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with opened(spec) as pipeline:
        request = request_of(spec)
        loaded = time.perf_counter()
        result = pipeline(request)
        found = {
            "versions": {name: found for name in _PACKAGES if (found := _version(name))},
            "settings": {**pipeline.engines, "precision": pipeline.precisions["unet"]},
            "first": time.perf_counter() - loaded,
            "rss_peak": Memory.here().peak,
        }
        _answer(answers, found)
        _serve(pipeline, request, result, answers)


def _serve(pipeline: Stopwatch, request: Request, result: Result, answers: TextIO) -> None:
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "go":
            stages, result = pipeline.picture(request)
            lap = {"seconds": stages.total, "stages": _parts(stages)}
            _answer(answers, {**lap, "rss_peak": Memory.here().peak})
        elif word == "save":
            pixels = np.asarray(result.images[0], dtype=np.float32) / 127.5 - 1.0
            np.save(rest, pixels.transpose(2, 0, 1)[None])
            _answer(answers, {"saved": rest})
        else:
            sys.exit(f"expected go or save PATH, got {line.strip()!r}")


def _parts(stages: Stages) -> dict[str, float]:
    """Seconds inside engines, by the parts that peers have."""
    parts = {"text": 0.0, "unet": 0.0, "decode": 0.0}
    for component, calls in stages.calls.items():
        parts[_PARTS.get(component, "text")] += sum(calls)
    return parts


def _answer(answers: TextIO, value: Mapping[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
