"""ONNX Runtime's sessions: where their nodes run, and inputs and outputs bound to memory.

All of it is the real package on the CPU, with the host's own memory for a device's. That a GPU does
as the CPU here, nobody has seen.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, Closed, EngineError, InputError
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda.memory import Bytes
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.onnxruntime import session as onnxruntime_session
from latentrt.engines.onnxruntime.cpu import OnnxRuntimeEngine
from latentrt.engines.onnxruntime.io_binding import OnnxRuntimeGpuEngine
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions
from latentrt.engines.onnxruntime.session import session, session_on, settings
from latentrt.engines.registry import backend

SIZES = {"batch": 2, "height": 6, "width": 10, "sequence": 11}
# The one other provider that the CPU package has; it takes no node of our graphs.
AZURE = "AzureExecutionProvider"


@pytest.fixture(scope="module")
def model(bundle: Callable[[str], Path]) -> OnnxGraph:
    return OnnxGraph.of(Blueprint.of(Bundle.open(bundle("heads")), "unet", SIZES))


# Where nodes run.


def test_nodes_that_fall_back_to_the_cpu_are_named(model: OnnxGraph) -> None:
    message = (
        r"^unet: (\d+) of \1 nodes would not run on AzureExecutionProvider: '\w+' \(\w+, "
        r"CPUExecutionProvider\), '\w+' \(\w+, CPUExecutionProvider\), .*, \.\.\.$"
    )
    with pytest.raises(BuildFailed, match=message):
        session_on(onnxruntime, model, settings(onnxruntime, model), [AZURE], AZURE)


def test_nodes_that_fall_back_are_seen_though_onnx_runtime_lets_them(
    model: OnnxGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_session, "_NO_FALLBACK", "session.latentrt_knows_no_such_key")
    with pytest.raises(BuildFailed, match="nodes would not run on AzureExecutionProvider"):
        session_on(onnxruntime, model, settings(onnxruntime, model), [AZURE], AZURE)


def test_onnx_runtime_lets_none_fall_back_though_they_are_not_seen(
    model: OnnxGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_session, "_check_provider", lambda *_: None)
    with pytest.raises(BuildFailed, match="assigned to the default CPU EP"):
        session_on(onnxruntime, model, settings(onnxruntime, model), [AZURE], AZURE)


def test_a_provider_that_is_not_loaded_is_named(model: OnnxGraph) -> None:
    chosen = settings(onnxruntime, model)
    other = "MIGraphXExecutionProvider"  # which no NVIDIA package has either
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(BuildFailed, match=r"^unet: ONNX Runtime did not load MIGraphXExec.* took C"),
    ):
        session_on(onnxruntime, model, chosen, [other], other)


def test_a_graph_without_a_node_elsewhere_passes(tmp_path: Path) -> None:
    # What is known beforehand is folded, and no provider has a node.
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Shape", ["x"], ["y"])],
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.INT64, [2])],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    specs = (TensorSpec("x", ("batch", 4)),), (TensorSpec("y", (2,), "int64"),)
    blueprint = Blueprint("unet", tmp_path, tmp_path / "weights" / "none", *specs, {"batch": 3})
    known = OnnxGraph(blueprint, content.SerializeToString())
    made = session_on(onnxruntime, known, settings(onnxruntime, known), [AZURE], AZURE)
    assert made.run(None, {"x": np.zeros((3, 4), np.float32)})[0].tolist() == [3, 4]


# Threads.


def test_no_thread_spin_waits_after_a_call(model: OnnxGraph) -> None:
    engine = backend("onnxruntime").compile(model.blueprint, OnnxRuntimeOptions(threads=4))
    inputs = {s.name: np.zeros(s.shape({}), np.float32) for s in engine.inputs}
    spent: list[float] = []
    for _ in range(10):
        engine(inputs)
        begun = time.process_time()
        time.sleep(0.05)
        spent.append(time.process_time() - begun)
    # Three threads that wait by turning spend milliseconds each; other tests' threads may be there.
    assert min(spent) < 1e-3


# Inputs and outputs bound to memory.


class Host:
    """The host's memory as if it were a device's, and a count of what is done with it."""

    def __init__(self) -> None:
        self.arrays: dict[int, Bytes] = {}
        self.pinned: dict[int, Bytes] = {}
        self.streams = 0
        self.counts: Counter[str] = Counter()

    def allocate(self, size: int) -> int:
        array = np.full(size, 0xAA, np.uint8)
        self.arrays[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, address: int) -> None:
        del self.arrays[address]

    def allocate_host(self, size: int) -> Bytes:
        host = np.full(size, 0xBB, np.uint8)
        self.pinned[host.ctypes.data] = host
        return host

    def free_host(self, host: Bytes) -> None:
        del self.pinned[host.ctypes.data]

    def stream(self) -> Queue:
        self.streams += 1
        return Queue(self)


class Queue:
    """A stream that does nothing before it is synchronised, as a real one may."""

    handle = 0

    def __init__(self, host: Host) -> None:
        self.host = host
        self.work: list[Callable[[], None]] = []

    def upload(self, address: int, host: Bytes) -> None:
        self.host.counts["uploads"] += 1
        self.work.append(lambda: np.copyto(self.host.arrays[address], host))

    def download(self, host: Bytes, address: int) -> None:
        self.work.append(lambda: np.copyto(host, self.host.arrays[address]))

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        raise AssertionError("ONNX Runtime captures its graphs itself")

    def synchronize(self) -> None:
        work, self.work = self.work, []
        for item in work:
            item()

    def close(self) -> None:
        self.host.streams -= 1


class Watched:
    """A session that remembers which graph each run was said to be."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.graphs: list[set[str]] = []
        self.running = 0
        self.broken = False

    def io_binding(self) -> Any:
        return self.inner.io_binding()

    def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
        if self.broken:
            raise ValueError("out of memory")
        return self.inner.run(names, inputs)

    def run_with_iobinding(self, bound: Any, options: Any) -> None:
        keys = "gpu_graph_id", "cuda_graph_annotation_id"
        self.graphs.append({options.get_run_config_entry(key) for key in keys})
        self.running += 1
        assert self.running == 1  # one run at a time
        if self.broken:
            self.running = 0
            raise ValueError("the GPU is gone")
        self.inner.run_with_iobinding(bound, options)
        self.running -= 1


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def watched(model: OnnxGraph) -> Watched:
    chosen = settings(onnxruntime, model)
    return Watched(session(onnxruntime, model, chosen, ["CPUExecutionProvider"]))


@pytest.fixture
def engine(model: OnnxGraph, watched: Watched, host: Host) -> OnnxRuntimeGpuEngine:
    return OnnxRuntimeGpuEngine(model.blueprint, onnxruntime, watched, host, device="cpu")


@pytest.fixture(scope="module")
def plain(model: OnnxGraph) -> Engine:
    made = session(onnxruntime, model, settings(onnxruntime, model), ["CPUExecutionProvider"])
    return OnnxRuntimeEngine(model.blueprint, made)


def arrays(engine: Engine, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {s.name: rng.standard_normal(s.shape({}), dtype=np.float32) for s in engine.inputs}


def test_every_call_gives_what_a_session_without_bindings_gives(
    engine: Engine, plain: Engine
) -> None:
    for seed in range(3):
        inputs = arrays(engine, seed)
        found, expected = engine(inputs), plain(inputs)
        assert set(found) == set(expected)
        for name, array in expected.items():
            assert np.array_equal(found[name], array)


def test_inputs_that_did_not_change_are_not_copied_again(
    engine: Engine, plain: Engine, host: Host
) -> None:
    inputs = arrays(engine, 0)
    engine(inputs)
    assert host.counts["uploads"] == 3
    for step in range(1, 4):
        inputs["sample"] = arrays(engine, step)["sample"]
        found = engine({name: array.copy() for name, array in inputs.items()})
        assert np.array_equal(found["model_output"], plain(inputs)["model_output"])
        assert host.counts["uploads"] == 3 + step


def test_outputs_belong_to_the_caller(engine: Engine) -> None:
    first = engine(arrays(engine, 0))["model_output"]
    kept = first.copy()
    engine(arrays(engine, 1))
    assert np.array_equal(first, kept)
    first[:] = 0  # writable


def test_calls_at_once_do_not_mix_and_each_has_a_graph_of_its_own(
    engine: Engine, plain: Engine, watched: Watched, host: Host
) -> None:
    expected = [plain(arrays(engine, seed))["model_output"] for seed in range(4)]
    wrong: list[int] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait(timeout=60)
        for _ in range(5):
            found = engine(arrays(engine, seed))["model_output"]
            if not np.array_equal(found, expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
    assert len(watched.graphs) == 20
    assert all(len(names) == 1 for names in watched.graphs)
    assert len({name for names in watched.graphs for name in names}) == host.streams
    assert len(host.arrays) == 4 * host.streams


def test_after_a_call_that_failed_everything_is_copied_again(
    engine: Engine, plain: Engine, watched: Watched, host: Host
) -> None:
    inputs = arrays(engine, 0)
    watched.broken = True
    with pytest.raises(EngineError, match="ONNX Runtime says: the GPU is gone"):
        engine(inputs)
    watched.broken = False
    assert np.array_equal(engine(inputs)["model_output"], plain(inputs)["model_output"])
    assert host.counts["uploads"] == 6


def test_a_binding_that_finds_no_room_holds_nothing(
    engine: Engine, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate, asked = host.allocate, iter(range(4))

    def little(size: int) -> int:
        if next(asked) == 2:
            raise EngineError("CUDA says: cudaErrorMemoryAllocation")
        return allocate(size)

    monkeypatch.setattr(host, "allocate", little)
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        engine(arrays(engine, 0))
    assert not host.arrays
    assert not host.pinned
    assert host.streams == 0


def test_closing_frees_everything_and_ends_calls(engine: Engine, host: Host) -> None:
    engine(arrays(engine, 0))
    assert len(host.arrays) == len(host.pinned) == 4
    engine.close()
    engine.close()
    assert not host.arrays
    assert not host.pinned
    assert host.streams == 0
    with pytest.raises(Closed, match="unet: the engine is closed"):
        engine(arrays(engine, 0))


def test_a_wrong_call_names_the_input(engine: Engine) -> None:
    inputs = arrays(engine, 0)
    inputs["sample"] = inputs["sample"].astype(np.float16)
    with pytest.raises(InputError, match=r"unet input 'sample': expected .* float32, got .*16"):
        engine(inputs)


# On the CPU, without bindings.


def test_a_call_that_onnx_runtime_refuses_is_an_engine_error_and_the_next_one_works(
    model: OnnxGraph, plain: Engine, watched: Watched
) -> None:
    made = OnnxRuntimeEngine(model.blueprint, watched)
    inputs = arrays(made, 0)
    watched.broken = True
    with pytest.raises(EngineError, match=r"^unet: ONNX Runtime says: out of memory$"):
        made(inputs)
    watched.broken = False
    assert np.array_equal(made(inputs)["model_output"], plain(inputs)["model_output"])
