"""latentrt as a contestant: a pipeline over a bundle that draws when it is told.

    python -m latentrt.benchmarks.contestant SPEC.json --serve

The protocol is that of `latentrt.benchmarks.peer_process`. What a picture takes beyond the calls of
engines is the runtime's own time.
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
from numpy.typing import NDArray

from latentrt.benchmarks.engines import Memory
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays, Engine, Options
from latentrt.runtime import Pipeline, Request, Result, Sampling, Size

_PACKAGES: Final = ("latentrt", "numpy", "onnxruntime", "openvino")
_STAGES: Final = {"unet": "unet", "vae_decoder": "decode"}


class TimedEngine:
    """An engine whose seconds are added to those of its stage."""

    def __init__(self, engine: Engine, seconds: dict[str, float]) -> None:
        self._engine = engine
        self._seconds = seconds
        self._stage = _STAGES.get(engine.component, "text")

    @property
    def component(self) -> str:
        """As the engine's."""
        return self._engine.component

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """As the engine's."""
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """As the engine's."""
        return self._engine.outputs

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Evaluate, and add the seconds."""
        begun = time.perf_counter()
        outputs = self._engine(inputs)
        self._seconds[self._stage] += time.perf_counter() - begun
        return outputs

    def close(self) -> None:
        """As the engine's."""
        self._engine.close()


class TimedPipeline(Pipeline):
    """A pipeline that knows how long its engines took: `stages`, in seconds, since `forget`."""

    stages: dict[str, float]

    def engine(self, component: str, sizes: Mapping[str, int]) -> Engine:
        """The component's engine, timed."""
        return TimedEngine(super().engine(component, sizes), self.stages)

    def forget(self) -> None:
        """Begin anew at zero."""
        self.stages = {"text": 0.0, "unet": 0.0, "decode": 0.0}


def opened(spec: Mapping[str, Any]) -> TimedPipeline:
    """The pipeline of a spec: its bundle, engine and precision, engines from the user's cache."""
    options = Options(precision=spec["precision"], threads=spec["threads"])
    pipeline = TimedPipeline(Bundle.open(spec["model"]), spec["engine"], options, {})
    pipeline.forget()
    return pipeline


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
    spec = json.loads(parser.parse_args().spec.read_text())
    # Libraries may print what they like: all of it goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
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


def _serve(pipeline: TimedPipeline, request: Request, result: Result, answers: TextIO) -> None:
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "go":
            pipeline.forget()
            begun = time.perf_counter()
            result = pipeline(request)
            seconds = time.perf_counter() - begun
            peak = Memory.here().peak
            _answer(answers, {"seconds": seconds, "stages": pipeline.stages, "rss_peak": peak})
        elif word == "save":
            pixels = np.asarray(result.images[0], dtype=np.float32) / 127.5 - 1.0
            np.save(rest, pixels.transpose(2, 0, 1)[None])
            _answer(answers, {"saved": rest})
        else:
            sys.exit(f"expected go or save PATH, got {line.strip()!r}")


def _answer(answers: TextIO, value: Mapping[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
