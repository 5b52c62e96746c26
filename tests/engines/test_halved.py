"""A call whose rows are evaluated in two halves at once, by each of the engines that do so."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.processor import PRECISIONS

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import Closed, EngineError
from latentrt.bundle.golden import Difference
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Blueprint
from latentrt.engines.halved import HalvedEngine, half_of
from latentrt.engines.onnxruntime import cpu as onnxruntime_engine
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions
from latentrt.engines.openvino import backend as openvino_engine
from latentrt.engines.openvino.options import OpenVinoOptions
from latentrt.engines.registry import backend

Arrays = dict[str, NDArray[Any]]

# models/shapes' goldens.
SIZES = {"height": 16, "width": 16, "sequence": 77}
NAMES = ("openvino", "onnxruntime")
MODULES = {"openvino": openvino_engine, "onnxruntime": onnxruntime_engine}


@pytest.fixture
def shapes(bundle: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle("shapes"))


def blueprint(bundle: Bundle, rows: int) -> Blueprint:
    return Blueprint.of(bundle, "unet", {"batch": rows, **SIZES})


def golden(bundle: Bundle) -> tuple[Arrays, NDArray[Any]]:
    stored = bundle.golden()
    specs = bundle.manifest.components["unet"].inputs
    inputs = {s.name: np.array(stored[f"unet/inputs/{s.name}"]) for s in specs}
    return inputs, stored["unet/outputs/model_output"]


def swapped(inputs: Arrays) -> Arrays:
    return {name: np.ascontiguousarray(array[::-1]) for name, array in inputs.items()}


# Which rows, and when.


def spec(name: str, *dims: int | str) -> TensorSpec:
    return TensorSpec(name, dims)


@pytest.mark.parametrize(
    ("inputs", "output", "rows", "half"),
    [
        ((spec("x", "batch", "height"), spec("t", "batch")), spec("y", "batch"), 2, 1),
        ((spec("x", "batch", "height"),), spec("y", "batch"), 8, 4),
        ((spec("x", "batch", "height"),), spec("y", "batch"), 3, None),
        ((spec("x", "batch", "height"),), spec("y", "batch"), 1, None),
        # What has no rows, or others, cannot be cut, nor put together again.
        ((spec("x", "batch"), spec("t", "height")), spec("y", "batch"), 2, None),
        ((spec("x", "batch"), spec("t")), spec("y", "batch"), 2, None),
        ((spec("x", "batch"),), spec("y", "height", "batch"), 2, None),
        ((spec("x", "batch"),), spec("y", "batch*2"), 2, None),
        ((spec("x", "batch"),), spec("y", 2, "height"), 2, None),
    ],
)
def test_rows_are_halved_where_every_array_has_them_and_they_are_even(
    tmp_path: Path,
    inputs: tuple[TensorSpec, ...],
    output: TensorSpec,
    rows: int,
    half: int | None,
) -> None:
    sizes = {"batch": rows, "height": 6}
    whole = Blueprint("unet", tmp_path, tmp_path, inputs, (output,), sizes)
    found = half_of(whole)
    assert whole.sizes["batch"] == rows
    assert (found and found.sizes) == (half and {"batch": half, "height": 6})


@pytest.mark.parametrize(
    ("name", "cores", "options", "halved"),
    [
        ("openvino", 1, {}, False),
        ("openvino", 2, {}, True),
        ("openvino", 3, {}, False),  # a thread would have nothing to do
        ("openvino", 4, {}, True),
        ("openvino", 4, {"threads": 3}, False),
        ("openvino", 1, {"threads": 2}, True),
        ("openvino", 4, {"threads": 1}, False),
        ("openvino", 4, {"streams": 1}, False),
        ("openvino", 4, {"streams": 2, "threads": 2}, False),
        # Two halves would share the threads of one session.
        ("onnxruntime", 1, {}, False),
        ("onnxruntime", 2, {}, True),
        ("onnxruntime", 4, {}, False),
        ("onnxruntime", 4, {"threads": 2}, True),
        ("onnxruntime", 2, {"threads": 1}, False),
        ("onnxruntime", 2, {"threads": 3}, False),
    ],
)
def test_rows_are_halved_where_there_is_a_thread_for_each(
    shapes: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    cores: int,
    options: dict[str, int],
    halved: bool,
) -> None:
    module: Any = MODULES[name]
    monkeypatch.setattr(module, "usable_cores", lambda: cores)
    half = (module.CPU.half if name == "openvino" else module._half)(
        blueprint(shapes, 2), backend(name).options(**options)
    )
    assert (half is not None) == halved


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stored", [False, True], ids=["compiled", "loaded"])
def test_openvino_has_a_stream_of_a_thread_for_each_half(
    shapes: Bundle, tmp_path: Path, precision: str, stored: bool
) -> None:
    cpu, options = openvino_engine.CPU, OpenVinoOptions(threads=2)
    inputs, _ = golden(shapes)
    whole = blueprint(shapes, 2).at(precision)
    if stored:
        cpu.build(whole, options, tmp_path)
    engine: Any = cpu.load(whole, options, tmp_path) if stored else cpu.compile(whole, options)
    model = engine.half._pool._make.args[0]
    assert model.get_property("NUM_STREAMS") == 2
    assert model.get_property("INFERENCE_NUM_THREADS") == 2
    joint = cpu.compile(whole, OpenVinoOptions(streams=1, threads=2))
    ours, theirs = (each(inputs)["model_output"] for each in (engine, joint))
    # In bf16 two ways of summing up are as far from each other as each is from fp32.
    assert Difference.between(ours, theirs).relative < (1e-5 if precision == "fp32" else 4e-3)


def test_onnx_runtime_has_no_threads_but_the_two_that_call(shapes: Bundle) -> None:
    engine: Any = backend("onnxruntime").compile(blueprint(shapes, 2), OnnxRuntimeOptions(2))
    assert engine.half._session.get_session_options().intra_op_num_threads == 1


# What comes of it.


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_the_same_alone_and_in_a_batch(shapes: Bundle, name: str) -> None:
    made, rows = backend(name), 6
    rng = np.random.default_rng(rows)
    whole = made.compile(blueprint(shapes, rows), made.options(threads=2))
    one = made.compile(blueprint(shapes, 1), made.options(threads=1))
    inputs = {s.name: rng.standard_normal(s.shape({}), np.float32) for s in whole.inputs}
    found = whole(inputs)["model_output"]
    for row in range(rows):
        alone = one({name: array[row : row + 1] for name, array in inputs.items()})
        assert Difference.between(found[row : row + 1], alone["model_output"]).relative < 1e-5
    assert np.array_equal(whole(swapped(inputs))["model_output"], found[::-1])


class Half:
    """An engine of one row, y = x + 1, that tells when it works."""

    component = "unet"
    inputs = outputs = (TensorSpec("x", (1,)),)

    def __init__(self) -> None:
        self.begin: Callable[[float], object] = lambda value: None
        self.working = 0
        self.closed = False
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        assert not self.closed
        (value,) = inputs["x"]
        with self._lock:
            self.working += 1
        try:
            self.begin(float(value))
            return {"x": inputs["x"] + np.float32(1)}
        finally:
            with self._lock:
                self.working -= 1

    def close(self) -> None:
        assert not self.working
        self.closed = True


ROWS = {"x": np.array([3, 7], np.float32)}


@pytest.fixture
def half() -> Half:
    return Half()


@pytest.fixture
def engine(half: Half) -> HalvedEngine:
    spec = TensorSpec("x", ("batch",))
    place = Path("none")
    return HalvedEngine(Blueprint("unet", place, place, (spec,), (spec,), {"batch": 2}), half)


def test_the_halves_are_at_work_at_once(engine: HalvedEngine, half: Half) -> None:
    both = threading.Barrier(2)
    half.begin = lambda value: both.wait(timeout=60)  # neither begins before the other does
    assert engine(ROWS)["x"].tolist() == [4, 8]


@pytest.mark.parametrize("failing", [3.0, 7.0])
def test_a_half_that_fails_is_an_error_when_the_other_has_ended(
    engine: HalvedEngine, half: Half, failing: float
) -> None:
    ended = threading.Event()

    def fail(value: float) -> None:
        if value == failing:
            raise EngineError("out of memory")
        time.sleep(0.1)
        ended.set()

    half.begin = fail
    with pytest.raises(EngineError, match="out of memory"):
        engine(ROWS)
    assert ended.is_set()
    assert half.working == 0
    half.begin = lambda value: None
    assert engine(ROWS)["x"].tolist() == [4, 8]


def test_an_engine_closed_during_a_call_ends_the_call_and_frees_the_halves_after_it(
    engine: HalvedEngine, half: Half
) -> None:
    half.begin = lambda value: engine.close()
    assert engine(ROWS)["x"].tolist() == [4, 8]
    assert half.closed
    with pytest.raises(Closed, match="unet: the engine is closed"):
        engine(ROWS)


ENDED = """
import sys, threading, time
import numpy as np
from latentrt.bundle.bundle import Bundle
from latentrt.engines.registry import backend
from latentrt.engines.engine import Blueprint

sizes = {"batch": 2, "height": 16, "width": 16, "sequence": 77}
unet = Blueprint.of(Bundle.open(sys.argv[1]), "unet", sizes)
engine = backend("onnxruntime").compile(unet, backend("onnxruntime").options(threads=2))
inputs = {s.name: np.ones(s.shape({}), np.float32) for s in engine.inputs}
expected = engine(inputs)["model_output"]

def draw():
    threading.main_thread().join()
    time.sleep(0.2)
    print("equal", np.array_equal(engine(inputs)["model_output"], expected))

threading.Thread(target=draw).start()
"""


def test_a_thread_that_outlives_the_main_one_goes_on(bundle: Callable[[str], Path]) -> None:
    # Then no pool begins a thread any more.
    command = [sys.executable, "-c", ENDED, str(bundle("shapes"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "equal True\n"), done.stderr
