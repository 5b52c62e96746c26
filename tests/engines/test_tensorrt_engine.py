"""How a plan is run, over a GPU that is made up: what is copied, captured, replayed and freed.

That CUDA does as the stand-ins do, nobody has seen: running on a GPU is unverified.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.bundle.errors import BuildFailed, Closed, EngineError, InputError
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda.buffers import CALLS
from latentrt.engines.cuda.memory import Bytes
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.tensorrt.engine import TensorRtEngine

SAMPLE = TensorSpec("sample", ("batch", 3), "float16")
TEXT = TensorSpec("text", ("batch", 2))
OUTPUT = TensorSpec("output", ("batch", 3), "float16")
SIZES = {"batch": 2}


class Gpu:
    """Memory that is a dictionary, and a count of everything that is done with it."""

    def __init__(self) -> None:
        self.memory: dict[int, Bytes] = {}
        self.pinned: dict[int, Bytes] = {}
        self.streams: dict[int, Queue] = {}
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.room = 1000  # allocations that there is room for

    def count(self, what: str) -> int:
        with self.lock:
            self.counts[what] += 1
            return self.counts[what]

    def allocate(self, size: int) -> int:
        if len(self.memory) == self.room:
            raise EngineError("CUDA says: cudaErrorMemoryAllocation")
        address = 4096 * self.count("allocations")
        self.memory[address] = np.full(size, 0xAA, np.uint8)
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def allocate_host(self, size: int) -> Bytes:
        host = np.full(size, 0xBB, np.uint8)
        self.pinned[host.ctypes.data] = host
        return host

    def free_host(self, host: Bytes) -> None:
        del self.pinned[host.ctypes.data]

    def stream(self) -> Queue:
        return Queue(self)


class Queue:
    """A stream that does nothing before it is synchronised, as a real one may."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.handle = gpu.count("streams")
        self.work: list[Callable[[], None]] = []
        gpu.streams[self.handle] = self

    def upload(self, address: int, host: Bytes) -> None:
        assert host.ctypes.data in self.gpu.pinned
        self.gpu.count("uploads")
        self.work.append(lambda: np.copyto(self.gpu.memory[address], host))

    def download(self, host: Bytes, address: int) -> None:
        assert host.ctypes.data in self.gpu.pinned
        self.work.append(lambda: np.copyto(host, self.gpu.memory[address]))

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        self.gpu.count("captures")
        before, self.work = self.work, []
        try:
            enqueue()
            recorded = self.work
        finally:
            self.work = before

        def replay() -> None:
            self.gpu.count("replays")
            self.work.extend(recorded)

        return replay

    def synchronize(self) -> None:
        work, self.work = self.work, []
        for item in work:
            item()

    def close(self) -> None:
        del self.gpu.streams[self.handle]


class Context:
    """Gives sample + the sum of each row's text; does not keep its plan alive."""

    def __init__(self, plan: Plan) -> None:
        self.plan: Plan = weakref.proxy(plan)
        self.gone = plan.gone
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, handle: int) -> bool:
        return self.plan.capturable

    def execute_async_v3(self, handle: int) -> bool:
        self.plan.gpu.count("enqueues")
        self.plan.gpu.streams[handle].work.append(self.run)
        return not self.plan.broken

    def __del__(self) -> None:
        self.gone.append("context")

    def run(self) -> None:
        memory = self.plan.gpu.memory
        sample = memory[self.addresses["sample"]].view(np.float16).reshape(2, 3)
        text = memory[self.addresses["text"]].view(np.float32).reshape(2, 2)
        result = sample + text.sum(axis=1, keepdims=True).astype(np.float16)
        memory[self.addresses["output"]][:] = result.view(np.uint8).reshape(-1)
        if self.plan.gate is not None:
            self.plan.gate.wait(timeout=10)


class Plan:
    """A deserialised engine of two inputs and one output."""

    num_io_tensors = 3

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.capturable = True
        self.broken = False
        self.gate: threading.Barrier | None = None
        self.half = "HALF"
        self.gone: list[str] = []

    def get_tensor_name(self, index: int) -> str:
        return ("sample", "text", "output")[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (2, 2) if name == "text" else (2, 3)

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="FLOAT" if name == "text" else self.half)

    def __del__(self) -> None:
        self.gone.append("plan")

    def create_execution_context(self) -> Context:
        self.gpu.count("contexts")
        return Context(self)


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def plan(gpu: Gpu) -> Plan:
    return Plan(gpu)


@pytest.fixture
def engine(plan: Plan) -> TensorRtEngine:
    return TensorRtEngine(blueprint(), plan, plan.gpu)


def blueprint(output: TensorSpec = OUTPUT) -> Blueprint:
    return Blueprint("unet", Path("g"), Path("w"), (SAMPLE, TEXT), (output,), SIZES)


def arrays(seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "sample": rng.standard_normal((2, 3)).astype(np.float16),
        "text": rng.standard_normal((2, 2)).astype(np.float32),
    }


def expected(inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return inputs["sample"] + inputs["text"].sum(axis=1, keepdims=True).astype(np.float16)


def test_every_call_gives_what_the_plan_computes(engine: Engine, gpu: Gpu) -> None:
    for seed in range(5):
        inputs = arrays(seed)
        assert np.array_equal(engine(inputs)["output"], expected(inputs))
    assert gpu.counts["uploads"] == 10


def test_inputs_that_did_not_change_are_not_copied_again(engine: Engine, gpu: Gpu) -> None:
    inputs = arrays(0)
    engine(inputs)
    assert gpu.counts["uploads"] == 2
    for step in range(1, 5):
        inputs["sample"] = arrays(step)["sample"]
        assert np.array_equal(engine(inputs)["output"], expected(inputs))
        assert gpu.counts["uploads"] == 2 + step
    # Equal content in another array is no change either.
    engine({name: array.copy() for name, array in inputs.items()})
    assert gpu.counts["uploads"] == 6


def test_an_array_that_the_caller_wrote_into_is_copied_again(engine: Engine, gpu: Gpu) -> None:
    inputs = arrays(0)
    engine(inputs)
    inputs["text"][1, 1] += 1
    assert np.array_equal(engine(inputs)["output"], expected(inputs))
    assert gpu.counts["uploads"] == 3


def test_a_change_is_a_change_of_bits(engine: Engine, gpu: Gpu) -> None:
    inputs = arrays(0)
    inputs["sample"][:] = 0.0
    inputs["text"][:] = 0.0
    engine(inputs)
    inputs["sample"][0, 0] = -0.0
    inputs["text"][:] = -0.0
    engine(inputs)
    assert gpu.counts["uploads"] == 4
    inputs["sample"][:] = np.nan
    engine(inputs)
    engine(inputs)
    assert gpu.counts["uploads"] == 5


def test_arrays_of_any_layout_are_read_right(engine: Engine, gpu: Gpu) -> None:
    inputs = arrays(0)
    turned = {n: np.ascontiguousarray(a.T).T for n, a in inputs.items()}
    assert not turned["sample"].flags.c_contiguous
    for _ in range(2):
        assert np.array_equal(engine(turned)["output"], expected(inputs))
    assert gpu.counts["uploads"] == 2


def test_outputs_belong_to_the_caller(engine: Engine) -> None:
    first = engine(arrays(0))["output"]
    kept = first.copy()
    second = engine(arrays(1))["output"]
    assert np.array_equal(first, kept)
    second[:] = 0
    assert np.array_equal(engine(arrays(1))["output"], expected(arrays(1)))


def test_the_second_call_is_captured_and_later_ones_replay_it(engine: Engine, gpu: Gpu) -> None:
    for seed in range(5):
        engine(arrays(seed))
    # Once run as it is, once to be recorded.
    assert gpu.counts["enqueues"] == 2
    assert gpu.counts["captures"] == 1
    assert gpu.counts["replays"] == 4


def test_work_that_refuses_capture_is_run_each_time(engine: Engine, plan: Plan, gpu: Gpu) -> None:
    plan.capturable = False
    for seed in range(4):
        assert np.array_equal(engine(arrays(seed))["output"], expected(arrays(seed)))
    assert gpu.counts["enqueues"] == 4
    assert gpu.counts["captures"] == 0


def test_work_whose_capture_fails_is_run_each_time(
    engine: Engine, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Queue, enqueue: Callable[[], None]) -> Callable[[], None]:
        raise EngineError("CUDA says: cudaErrorStreamCaptureUnsupported")

    monkeypatch.setattr(Queue, "capture", refuse)
    for seed in range(4):
        assert np.array_equal(engine(arrays(seed))["output"], expected(arrays(seed)))
    assert gpu.counts["enqueues"] == 4


def test_after_a_call_that_failed_everything_is_copied_again(
    engine: Engine, plan: Plan, gpu: Gpu
) -> None:
    inputs = arrays(0)
    plan.broken = True
    with pytest.raises(EngineError, match="did not start"):
        engine(inputs)
    plan.broken = False
    assert np.array_equal(engine(inputs)["output"], expected(inputs))
    assert gpu.counts["uploads"] == 4


def test_copies_of_a_failed_call_end_before_the_next_call(
    engine: Engine, plan: Plan, gpu: Gpu
) -> None:
    plan.broken = True
    with pytest.raises(EngineError, match="did not start"):
        engine(arrays(0))
    (queue,) = gpu.streams.values()
    assert not queue.work


def test_a_run_that_failed_is_not_the_one_that_tensorrt_sets_itself_up_in(
    engine: Engine, plan: Plan, gpu: Gpu
) -> None:
    plan.broken = True
    with pytest.raises(EngineError, match="did not start"):
        engine(arrays(0))
    plan.broken = False
    engine(arrays(0))
    assert gpu.counts["captures"] == 0
    engine(arrays(1))
    assert gpu.counts["captures"] == 1


def test_a_gpu_without_room_frees_everything_allocated_so_far(engine: Engine, gpu: Gpu) -> None:
    gpu.room = 2
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        engine(arrays(0))
    assert not gpu.memory
    assert not gpu.pinned
    assert not gpu.streams
    gpu.room = 3
    assert np.array_equal(engine(arrays(0))["output"], expected(arrays(0)))


def test_calls_at_once_have_contexts_of_their_own(engine: Engine, plan: Plan, gpu: Gpu) -> None:
    plan.gate = threading.Barrier(3)
    found: dict[int, NDArray[Any]] = {}

    def call(seed: int) -> None:
        found[seed] = engine(arrays(seed))["output"]

    for first in (0, 3):
        threads = [threading.Thread(target=call, args=(first + i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        # The second time, those of the first are there.
        assert gpu.counts["contexts"] == 3
    for seed in range(6):
        assert np.array_equal(found[seed], expected(arrays(seed)))


def test_twenty_calls_at_once_share_a_few_contexts(engine: Engine, gpu: Gpu) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda seed: engine(arrays(seed))["output"], range(20)))
    assert gpu.counts["contexts"] <= CALLS
    for seed in range(20):
        assert np.array_equal(found[seed], expected(arrays(seed)))


def test_calls_that_wait_for_a_context_end_when_the_engine_is_closed(
    engine: Engine, plan: Plan, gpu: Gpu
) -> None:
    plan.gate = threading.Barrier(CALLS + 1)
    ended: list[Exception | None] = []

    def call() -> None:
        try:
            engine(arrays(0))
        except Closed as error:
            ended.append(error)
        else:
            ended.append(None)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(CALLS + 3)]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    while plan.gate.n_waiting < CALLS:
        assert time.monotonic() < begun + 60
        time.sleep(0.001)
    engine.close()
    plan.gate.wait(timeout=60)
    for thread in threads:
        thread.join(timeout=10)
    assert [error is None for error in ended].count(True) == CALLS
    assert len(ended) == CALLS + 3
    assert not gpu.memory


def test_an_unreferenced_engine_frees_its_memory(plan: Plan, gpu: Gpu) -> None:
    made = TensorRtEngine(blueprint(), plan, gpu)
    made(arrays(0))
    assert gpu.memory
    del made
    assert not gpu.memory
    assert not gpu.streams


def test_closing_frees_everything_and_ends_calls(engine: Engine, gpu: Gpu) -> None:
    engine(arrays(0))
    assert len(gpu.memory) == len(gpu.pinned) == 3
    engine.close()
    engine.close()
    assert not gpu.memory
    assert not gpu.pinned
    assert not gpu.streams
    with pytest.raises(Closed, match="unet: the engine is closed"):
        engine(arrays(0))


def test_a_call_in_progress_at_closing_finishes_and_frees_its_context(
    engine: Engine, plan: Plan, gpu: Gpu
) -> None:
    plan.gate = threading.Barrier(2)
    found: list[NDArray[Any]] = []
    thread = threading.Thread(target=lambda: found.append(engine(arrays(0))["output"]))
    thread.start()
    while not gpu.counts["enqueues"]:
        threading.Event().wait(0.001)
    engine.close()
    plan.gate.wait(timeout=10)
    thread.join(timeout=60)
    assert np.array_equal(found[0], expected(arrays(0)))
    assert not gpu.memory


class Runtime:
    """What a plan was made with."""

    def __init__(self, gone: list[str]) -> None:
        self.gone = gone

    def __del__(self) -> None:
        self.gone.append("runtime")


def test_a_plan_goes_after_its_contexts_and_what_it_was_made_with_after_the_plan(gpu: Gpu) -> None:
    for calls in (0, 1):
        plan = Plan(gpu)
        gone = plan.gone
        engine = TensorRtEngine(blueprint(), plan, gpu, keep=(Runtime(gone),))
        del plan
        for seed in range(calls):
            engine(arrays(seed))
        engine.close()
        assert gone == ["context"] * calls + ["plan", "runtime"]


def test_a_plan_lives_until_the_last_call_under_way_ends(gpu: Gpu) -> None:
    plan = Plan(gpu)
    gone, gate = plan.gone, threading.Barrier(2)
    plan.gate = gate
    engine = TensorRtEngine(blueprint(), plan, gpu, keep=(Runtime(gone),))
    del plan
    thread = threading.Thread(target=lambda: engine(arrays(0)))
    thread.start()
    while not gpu.counts["enqueues"]:
        threading.Event().wait(0.001)
    engine.close()
    assert not gone
    gate.wait(timeout=10)
    thread.join(timeout=60)
    assert gone == ["context", "plan", "runtime"]


def test_a_wrong_call_names_the_input(engine: Engine) -> None:
    inputs = arrays(0)
    inputs["text"] = inputs["text"].astype(np.float64)
    with pytest.raises(InputError, match=r"unet input 'text': expected \(2, 2\) float32"):
        engine(inputs)


def test_a_plan_of_other_arrays_is_refused(plan: Plan, gpu: Gpu) -> None:
    with pytest.raises(BuildFailed, match="unet: the plan is of other arrays"):
        TensorRtEngine(blueprint(TensorSpec("output", ("batch", 4), "float16")), plan, gpu)


def test_a_plan_of_other_dtypes_is_refused(plan: Plan, gpu: Gpu) -> None:
    # Its buffers would be twice as long as ours.
    plan.half = "FLOAT"
    with pytest.raises(BuildFailed, match=r"other arrays: \{'sample': \(\(2, 3\), 'float32'\)"):
        TensorRtEngine(blueprint(), plan, gpu)
