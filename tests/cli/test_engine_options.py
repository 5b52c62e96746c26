"""Options that are part of an engine's key, through every command and through `Pipeline.open`.

TensorRT's compiler and GPU are made up here: a plan is a note of its options, and what is loaded
from it is ONNX Runtime's engine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.outcome import Run

from latentrt.benchmarks.latency.workload import Workload
from latentrt.bundle.errors import LatentrtError, ShapeNotBuilt
from latentrt.cli import benchmark
from latentrt.engines.cache.cache import Cache
from latentrt.engines.cuda.device import Gpu
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.onnxruntime import cpu as onnxruntime
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions
from latentrt.engines.tensorrt import backend as tensorrt
from latentrt.engines.tensorrt.options import TensorRtOptions
from latentrt.runtime import Pipeline, Request, Sampling

REQUEST = Request("a red circle", seed=1, sampling=Sampling(steps=1))
BUILT = ("--engine", "tensorrt", "--option", "level=5", "--option", "stripped=true")


@pytest.fixture(autouse=True)
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options of engines that were compiled beside the cache, over a cache of this test."""
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))
    found: list[Any] = []

    def build(blueprint: Blueprint, options: Any, folder: Path, **more: Any) -> None:
        (folder / tensorrt.PLAN).write_text(repr(options))

    def load(blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        assert (folder / tensorrt.PLAN).read_text() == repr(options)
        return onnxruntime.compile(blueprint, OnnxRuntimeOptions())

    def compile_alone(blueprint: Blueprint, options: Any) -> Engine:
        found.append(options)
        return onnxruntime.compile(blueprint, OnnxRuntimeOptions())

    monkeypatch.setattr(tensorrt, "gpu", lambda: Gpu("NVIDIA L4", "sm89", "13.0"))
    monkeypatch.setattr(tensorrt, "build", build)
    monkeypatch.setattr(tensorrt, "load", load)
    monkeypatch.setattr(tensorrt, "compile", compile_alone)
    return found


def test_a_pipeline_finds_an_engine_built_at_a_level_without_weights(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    path = bundle("heads")
    status, _, err = run("build", path, *BUILT)
    assert status == 0, err
    options = {"level": 5, "stripped": True}
    with Pipeline.open(path, engine="tensorrt", options=options, build="never") as pipeline:
        assert pipeline(REQUEST).images


@pytest.mark.parametrize(
    ("level", "stripped", "miss"),
    [(3, True, "level 5 -> 3"), (5, False, "stripped True -> False")],
)
def test_another_level_or_plans_with_weights_are_a_miss_that_says_so(
    run: Run, bundle: Callable[[str], Path], level: int, stripped: bool, miss: str
) -> None:
    path = bundle("heads")
    run("build", path, *BUILT)
    options = {"level": level, "stripped": stripped}
    opened = Pipeline.open(path, engine="tensorrt", options=options, build="never")
    refused = pytest.raises(ShapeNotBuilt, match=f"not built: {miss}; latentrt build ")
    with opened as pipeline, refused:
        pipeline(REQUEST)


@pytest.mark.parametrize("options", [BUILT, ("--engine", "onnxruntime", "--option", "arena=false")])
def test_generate_draws_with_what_was_built_with_its_options(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    run("build", bundle("heads"), *options)
    built = {entry.path for entry in Cache().entries()}
    picture = ("a red circle", "-o", tmp_path / "out.png", "--steps", "1")
    status, _, err = run("generate", bundle("heads"), *picture, *options)
    assert status == 0, err
    assert {entry.path for entry in Cache().entries()} == built


def test_compare_compiles_with_its_options(
    run: Run, bundle: Callable[[str], Path], compiled: list[Any]
) -> None:
    status, _, err = run("compare", bundle("heads"), *BUILT)
    assert status == 0, err
    assert set(compiled) == {TensorRtOptions(level=5, stripped=True)}


def test_bench_measures_with_its_options(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Workload] = []

    def measure(workload: Workload, *more: object) -> None:
        seen.append(workload)
        raise LatentrtError("seen")

    monkeypatch.setattr(benchmark, "measure", measure)
    run("bench", bundle("heads"), *BUILT)
    (found,) = (dict(workload.engine) for workload in seen)
    assert found["engine"] == "tensorrt"
    assert found["options"] == {"level": 5, "stripped": True}
