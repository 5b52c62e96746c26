"""What the machine can do at best: that it is the engine's work that is counted, and all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tests.processor import needs_bf16

from latentrt.benchmarks.latency import ceilings as module
from latentrt.benchmarks.latency.ceilings import (
    bandwidth,
    ceilings,
    ceilings_apart,
    gpu_bandwidth,
    products,
)
from latentrt.bundle.errors import EngineError
from latentrt.engines.cuda.device import Gpu, Missing
from latentrt.engines.engine import Arrays, Blueprint
from latentrt.engines.registry import Chosen, Compiler, backend


@dataclass
class Clock:
    """Time that passes when somebody says so."""

    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now


@dataclass
class Engine:
    """Takes the seconds that its backend says."""

    blueprint: Blueprint
    clock: Clock
    seconds: float
    calls: int = 0
    closed: bool = False

    @property
    def inputs(self) -> Any:
        return self.blueprint.fixed_inputs

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        (given,) = inputs.values()
        assert given.shape == self.inputs[0].dims
        self.calls += 1
        # The first is slower, as first calls are.
        self.clock.now += self.seconds * (10 if self.calls == 1 else 1)
        return {}

    def close(self) -> None:
        self.closed = True


@dataclass
class Fake:
    """A backend whose calls take so many seconds, one compiled graph after the other."""

    clock: Clock
    seconds: list[float]
    engines: list[Engine] = field(default_factory=list[Engine])
    products: list[int] = field(default_factory=list[int])

    def compile(self, blueprint: Blueprint, options: Any) -> Engine:
        assert blueprint.precision in ("bf16", "fp32", "fp16")
        graph = onnx.load(blueprint.graph).graph
        self.products.append(sum(node.op_type == "MatMul" for node in graph.node))
        self.engines.append(Engine(blueprint, self.clock, self.seconds[len(self.engines)]))
        return self.engines[-1]


def fake(
    name: str, precision: str, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> tuple[Fake, tuple[str, str]]:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "bandwidth", lambda **_: 7.0)
    made = Fake(clock, seconds)
    compiler = cast("Compiler", made)
    chosen = Chosen(replace(backend(name), find=lambda: compiler), precision)
    monkeypatch.setattr(module, "choose", lambda *_: chosen)
    return made, (name, precision)


def test_a_rate_is_the_operations_of_the_engines_own_product_over_its_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, chosen = fake("openvino", "bf16", [0.05, 0.2, 99.0], monkeypatch)
    found = ceilings(*chosen, "float32", sizes=(8, 16, 32), repeats=3)
    # 2 n^3 in 0.2 s is more than in 0.05 s; a call over 0.1 s is long enough, so n = 32 is not
    # tried.
    assert found.rate == pytest.approx(2 * 16**3 / 0.2)
    assert found.bandwidth == 7.0
    assert made.products == [1, 1]
    assert [engine.calls for engine in made.engines] == [4, 4]
    assert all(engine.closed for engine in made.engines)


@pytest.mark.parametrize(("numpy", "rate"), [(0.25, 2 * 8**3 / 0.25), (2.0, 2 * 8**3 / 0.5)])
def test_in_fp32_a_cpus_ceiling_is_the_faster_of_the_engine_and_numpy(
    numpy: float, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, chosen = fake("onnxruntime", "fp32", [0.5], monkeypatch)
    monkeypatch.setattr(module, "_numpy_product", lambda *_: numpy)
    assert ceilings(*chosen, "float32", sizes=(8,), repeats=1).rate == pytest.approx(rate)


def test_a_gpus_rate_is_of_a_chain_into_which_one_number_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, chosen = fake("onnxruntime-cuda", "fp16", [0.5], monkeypatch)
    monkeypatch.setattr(module, "gpu", lambda: Missing("none here", ""))
    found = ceilings(*chosen, "float16", sizes=(8,), repeats=1)
    assert made.products == [32]
    assert found.rate == pytest.approx(32 * 2 * 8**3 / 0.5)
    assert made.engines[0].blueprint.fixed_inputs[0].dims == (1, 1)
    # No CPU's memory in its place.
    assert found.bandwidth is None


@pytest.mark.parametrize(("name", "expected"), [("tensorrt", 5.0), ("openvino-gpu", None)])
def test_a_devices_bandwidth_is_its_own_or_not_known(
    name: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, chosen = fake(name, "fp16", [0.5], monkeypatch)
    monkeypatch.setattr(module, "gpu", lambda: Gpu("A GPU", "sm90", "13.0"))
    monkeypatch.setattr(module, "cuda", lambda: "the runtime")
    monkeypatch.setattr(module, "gpu_bandwidth", lambda api, **_: {"the runtime": 5.0}[api])
    assert ceilings(*chosen, "float16", sizes=(8,), repeats=1).bandwidth == expected


@pytest.mark.parametrize("chain", [2, 32])
def test_every_backend_computes_the_chains_known_result(chain: int, tmp_path: Path) -> None:
    engine = backend("onnxruntime").compile(products(tmp_path, "float32", 64, chain))
    (found,) = engine({"x": np.zeros((1, 1), np.float32)}).values()
    engine.close()
    # 64 x 64 elements of 1 / 64, in powers of two and so without rounding.
    assert found.item() == 64.0


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)]
)
def test_a_chain_is_finite_in_sixteen_bits(dtype: str, kind: Any, tmp_path: Path) -> None:
    blueprint = products(tmp_path, dtype, 64, 8)
    evaluator = ReferenceEvaluator(onnx.load(blueprint.graph))
    (found,) = cast("list[Any]", evaluator.run(None, {"x": np.zeros((1, 1), kind)}))
    # 64, or as much of it as is left of adding 4096 small numbers in 16 bits.
    assert 0 < float(found.item()) <= 64


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("openvino", "fp32"),
        pytest.param("openvino", "bf16", marks=needs_bf16),
        ("onnxruntime", "fp32"),
    ],
)
def test_the_engines_that_run_here_take_the_product(engine: str, precision: str) -> None:
    found = ceilings(engine, precision, "float32", sizes=(64,), repeats=1)
    assert found.rate > 0
    assert found.bandwidth is not None


def test_a_copy_reads_and_writes_all_of_its_bytes_a_part_on_every_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied: list[int] = []
    together = threading.Barrier(3, timeout=60)
    real = np.copyto

    def copy(target: NDArray[Any], source: NDArray[Any]) -> None:
        together.wait()  # which nobody passes alone
        real(target, source)
        assert np.all(target == 1.0)
        copied.append(target.nbytes)

    def best(work: Callable[[], object], repeats: int) -> float:
        work()
        return 0.5

    monkeypatch.setattr(np, "copyto", copy)
    monkeypatch.setattr(module, "_best", best)
    here = SimpleNamespace(here=lambda: SimpleNamespace(cores=3))
    monkeypatch.setattr(module, "Machine", here)
    assert bandwidth(size=4096) == 2 * 4096 / 0.5
    assert (len(copied), sum(copied)) == (3, 4096)


def test_a_gpus_copies_stay_within_it_and_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, queued, held = Clock(), [0], [64, 32]
    done = SimpleNamespace(value=0)

    def copy(target: int, source: int, size: int, kind: str, stream: int) -> Any:
        assert (target, source, size, kind, stream) == (32, 64, 4096, "device to device", 0)
        queued[0] += 1
        return (done,)

    def synchronize(stream: int) -> Any:
        assert stream == 0
        clock.now += 0.5 * queued[0]
        queued[0] = 0
        return (done,)

    freed: list[int] = []
    api = SimpleNamespace(
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyDeviceToDevice="device to device"),
        cudaMalloc=lambda size: (done, held.pop()),
        cudaMemcpyAsync=copy,
        cudaStreamSynchronize=synchronize,
        cudaFree=freed.append,
    )
    monkeypatch.setattr(module, "time", clock)
    # Each copy of 4096 bytes, which are read and written, takes half a second.
    assert gpu_bandwidth(api, size=4096, repeats=2) == pytest.approx(2 * 4096 / 0.5)
    assert sorted(freed) == [32, 64]


def test_ceilings_apart_are_measured_by_another_process() -> None:
    found = ceilings_apart("onnxruntime", "fp32", "float32", sizes=(64,), repeats=1)
    assert found.rate > 0
    with pytest.raises(EngineError, match=r"ceilings: exit status 1: .*nobody"):
        ceilings_apart("nobody", "fp32", "float32", sizes=(64,), repeats=1)
