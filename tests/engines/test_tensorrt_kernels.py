"""Kernels that are compiled where a plan is run, over a TensorRT for RTX that is made up.

That the real one does as this one, nobody has seen: running on a GPU is unverified.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.engines.test_tensorrt import one_node
from tests.engines.test_tensorrt_engine import Context, Gpu, Plan, arrays, blueprint, expected

from latentrt.engines.cuda import device as cuda_device
from latentrt.engines.engine import Blueprint
from latentrt.engines.tensorrt import backend as tensorrt
from latentrt.engines.tensorrt import library as tensorrt_library
from latentrt.engines.tensorrt.engine import TensorRtEngine
from latentrt.engines.tensorrt.kernels import Kernels
from latentrt.engines.tensorrt.options import TensorRtOptions

L4 = cuda_device.Gpu("NVIDIA L4", "sm89", "13.0")
KERNEL = b"a kernel of this GPU"


class Config:
    """The runtime configuration of a plan; it compiles what its cache has not."""

    def __init__(self, plan: JitPlan) -> None:
        self.plan = plan
        self.held = b""
        self.set = False

    def create_runtime_cache(self) -> Any:
        return SimpleNamespace(deserialize=self.deserialize, serialize=lambda: self.held)

    def deserialize(self, blob: bytes) -> bool:
        if blob == KERNEL:
            self.held = blob
        return blob == KERNEL

    def set_runtime_cache(self, cache: Any) -> bool:
        self.set = True
        return True


class JitPlan(Plan):
    """A plan whose contexts compile one kernel."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(gpu)
        self.configs: list[Config] = []

    def create_runtime_config(self) -> Config:
        self.configs.append(Config(self))
        return self.configs[-1]

    def create_execution_context(self, config: Config | None = None) -> Context:
        assert config is not None
        assert config.set
        if not config.held:
            self.gpu.count("compiled")
            config.held = KERNEL
        return super().create_execution_context()


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


def engine_of(plan: JitPlan, stored: bytes = b"") -> TensorRtEngine:
    return TensorRtEngine(blueprint(), plan, plan.gpu, kernels=Kernels.of(plan, stored))


def test_a_second_process_does_not_compile_again(gpu: Gpu) -> None:
    first = engine_of(JitPlan(gpu))
    assert np.array_equal(first(arrays(0))["output"], expected(arrays(0)))
    stored = first.compiled()
    assert (stored, gpu.counts["compiled"]) == (KERNEL, 1)
    second = engine_of(JitPlan(gpu), stored)
    assert np.array_equal(second(arrays(1))["output"], expected(arrays(1)))
    assert gpu.counts["compiled"] == 1


@pytest.mark.parametrize("stored", [b"a kernel of another GPU", b"\0"])
def test_unfit_kernels_are_compiled_again_with_the_same_result(gpu: Gpu, stored: bytes) -> None:
    engine = engine_of(JitPlan(gpu), stored)
    assert np.array_equal(engine(arrays(0))["output"], expected(arrays(0)))
    assert gpu.counts["compiled"] == 1
    assert engine.compiled() == KERNEL


def test_plans_that_are_finished_have_no_kernels_to_keep(gpu: Gpu) -> None:
    plan = Plan(gpu)
    assert Kernels.of(plan, b"") is None
    # The data-centre library has such a configuration too, without a cache.
    plan.__dict__["create_runtime_config"] = SimpleNamespace
    assert Kernels.of(plan, b"") is None
    engine = TensorRtEngine(blueprint(), plan, gpu)
    engine(arrays(0))
    assert engine.compiled() == b""


class Made:
    """An engine that was loaded, and what became of it."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.inputs = blueprint.fixed_inputs
        self.given: list[dict[str, Any]] = []
        self.closed = False

    def __call__(self, inputs: dict[str, Any]) -> None:
        self.given.append(inputs)

    def compiled(self) -> bytes:
        assert self.given
        return KERNEL

    def close(self) -> None:
        self.closed = True


def test_a_plan_for_this_gpu_is_built_with_its_kernels_and_one_for_a_target_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Made] = []

    def load(blueprint: Blueprint, options: Any, folder: Path) -> Made:
        assert (folder / tensorrt.PLAN).stat().st_size > 1000
        made.append(Made(blueprint))
        return made[-1]

    rtx = tensorrt_library.library_for("sm89")
    monkeypatch.setattr(tensorrt, "gpu", lambda: L4)
    monkeypatch.setattr(tensorrt, "library_for", lambda _: rtx)
    monkeypatch.setattr(tensorrt, "load", load)
    node = one_node(tmp_path, "Relu")
    for name, options in (("here", TensorRtOptions()), ("there", TensorRtOptions(target="sm89"))):
        (tmp_path / name).mkdir()
        tensorrt.build(node, options, tmp_path / name)
    assert (tmp_path / "here" / tensorrt.KERNELS).read_bytes() == KERNEL
    assert [p.name for p in (tmp_path / "there").iterdir()] == [tensorrt.PLAN]
    (engine,) = made
    assert [inputs["x"].shape for inputs in engine.given] == [(1, 4, 4)]
    assert engine.closed


@pytest.mark.parametrize("stored", [b"", KERNEL])
def test_a_plan_is_loaded_with_the_kernels_beside_it(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bytes
) -> None:
    class Log:
        ERROR = INTERNAL_ERROR = 0

    plan = JitPlan(gpu)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: plan)
    api = SimpleNamespace(ILogger=Log, Runtime=lambda _: runtime)
    library = tensorrt_library.TensorRtLibrary("tensorrt-rtx", "1.7", api)
    monkeypatch.setattr(tensorrt, "gpu", lambda: L4)
    monkeypatch.setattr(tensorrt, "library_for", lambda _: library)
    monkeypatch.setattr(tensorrt, "CudaMemory", lambda: gpu)
    (tmp_path / tensorrt.PLAN).write_bytes(b"plan")
    if stored:
        (tmp_path / tensorrt.KERNELS).write_bytes(stored)
    engine = tensorrt.load(blueprint(), TensorRtOptions(), tmp_path)
    engine(arrays(0))
    assert gpu.counts["compiled"] == (0 if stored else 1)
