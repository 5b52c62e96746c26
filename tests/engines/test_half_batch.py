"""A call whose rows are evaluated in two halves at once, by each of the engines that do so."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
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
from latentrt.engines import registry as backends
from latentrt.engines.engine import Blueprint, Engine, Options
from latentrt.engines.half_batch import half_of
from latentrt.engines.onnxruntime import cpu as onnxruntime_engine
from latentrt.engines.openvino import backend as openvino_engine
from latentrt.engines.registry import backend

Arrays = dict[str, NDArray[Any]]

# models/shapes' goldens.
SIZES = {"height": 16, "width": 16, "sequence": 77}
NAMES = ("openvino", "onnxruntime")
MODULES = {"openvino": openvino_engine, "onnxruntime": onnxruntime_engine}
TWO = Options(threads=2)
ONE = Options(threads=1)


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


class _Part:
    """A session or infer request that tells when it works, and on how many rows."""

    def __init__(self, real: Any, host: Host) -> None:
        self._real = real
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run(self, names: list[str], inputs: Arrays) -> Any:  # ONNX Runtime's
        with self._host.at_work(len(inputs["sample"])):
            return self._real.run(names, inputs)

    def infer(self, **how: bool) -> Any:  # OpenVINO's
        with self._host.at_work(len(self._real.get_tensor("sample").data)):
            return self._real.infer(**how)

    def start_async(self, **how: bool) -> None:
        with self._host.at_work(len(self._real.get_tensor("sample").data)):
            self._real.start_async(**how)
        self._host.started += 1

    def wait(self) -> None:
        self._real.wait()
        self._host.waited += 1

    def create_infer_request(self) -> _Part:
        return _Part(self._real.create_infer_request(), self._host)


class Host:
    """Where an engine's parts work: what each was given, and what is to happen as it begins."""

    def __init__(self, engine: Any) -> None:
        self.rows: list[int] = []
        self.begin: Callable[[int], object] = lambda number: None
        self.working = 0
        self.started = self.waited = 0
        self._lock = threading.Lock()
        if isinstance(engine, openvino_engine.OpenVinoEngine):
            maker: Any = engine._pool._make
            maker.model = _Part(maker.model, self)
        else:
            engine._rows._session = _Part(engine._rows._session, self)

    def at_work(self, rows: int) -> Host:
        with self._lock:
            self.rows.append(rows)
            self.working += 1
            number = len(self.rows)
        try:
            self.begin(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.working -= 1


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
        ("openvino", 1, Options(), False),
        ("openvino", 2, Options(), True),
        ("openvino", 3, Options(), False),  # a thread would have nothing to do
        ("openvino", 4, Options(), True),
        ("openvino", 4, Options(threads=3), False),
        ("openvino", 1, Options(threads=2), True),
        ("openvino", 4, Options(threads=1), False),
        ("openvino", 4, Options(streams=1), False),
        ("openvino", 4, Options(streams=2, threads=2), False),
        # Two halves would share the threads of one session.
        ("onnxruntime", 1, Options(), False),
        ("onnxruntime", 2, Options(), True),
        ("onnxruntime", 4, Options(), False),
        ("onnxruntime", 4, Options(threads=2), True),
        ("onnxruntime", 2, Options(threads=1), False),
        ("onnxruntime", 2, Options(threads=3), False),
    ],
)
def test_rows_are_halved_where_there_is_a_thread_for_each(
    shapes: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    cores: int,
    options: Options,
    halved: bool,
) -> None:
    monkeypatch.setattr(MODULES[name], "usable_cores", lambda: cores)
    inputs, expected = golden(shapes)
    engine = backend(name).compile(blueprint(shapes, 2), options)
    host = Host(engine)
    # fp32's promise for an evaluation of the U-Net.
    assert Difference.between(engine(inputs)["model_output"], expected).relative < 1e-5
    assert host.rows == ([1, 1] if halved else [2])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stored", [False, True], ids=["compiled", "loaded"])
def test_openvino_has_a_stream_of_a_thread_for_each_half(
    shapes: Bundle, tmp_path: Path, precision: str, stored: bool
) -> None:
    cpu, options = openvino_engine.CPU, Options(precision=precision, threads=2)
    inputs, _ = golden(shapes)
    whole = blueprint(shapes, 2)
    if stored:
        cpu.build(whole, options, tmp_path)
    engine = cpu.load(whole, options, tmp_path) if stored else cpu.compile(whole, options)
    model: Any = engine._pool._make.model  # pyright: ignore[reportOptionalMemberAccess, reportFunctionMemberAccess, reportAttributeAccessIssue]
    assert model.get_property("NUM_STREAMS") == 2
    assert model.get_property("INFERENCE_NUM_THREADS") == 2
    joint = cpu.compile(whole, Options(precision=precision, streams=1, threads=2))
    ours, theirs = (each(inputs)["model_output"] for each in (engine, joint))
    # In bf16 two ways of summing up are as far from each other as each is from fp32.
    assert Difference.between(ours, theirs).relative < (1e-5 if precision == "fp32" else 4e-3)


def test_onnx_runtime_has_no_threads_but_the_two_that_call(shapes: Bundle) -> None:
    engine: Any = backend("onnxruntime").compile(blueprint(shapes, 2), TWO)
    assert engine._rows._session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("siblings", "usable", "cores"),
    [
        ({0: "0", 1: "1"}, {0, 1}, 2),
        ({0: "0-1", 1: "0-1"}, {0, 1}, 1),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 1, 2, 3}, 2),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 2}, 1),
        ({}, {0, 1, 2}, 3),  # nothing tells
    ],
)
def test_two_threads_of_a_core_are_one(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    siblings: dict[int, str],
    usable: set[int],
    cores: int,
) -> None:
    for cpu, same in siblings.items():
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(same + "\n")
    monkeypatch.setattr(backends, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(backends.os, "sched_getaffinity", lambda _: usable, raising=False)
    assert backends.usable_cores() == cores
    assert backends.cpu_identity()["cores"] == str(cores)


# What comes of it.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [2, 6])
def test_every_row_is_what_it_is_by_itself(shapes: Bundle, name: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    whole = backend(name).compile(blueprint(shapes, rows), TWO)
    one = backend(name).compile(blueprint(shapes, 1), ONE)
    inputs = {s.name: rng.standard_normal(s.shape({}), np.float32) for s in whole.inputs}
    found = whole(inputs)["model_output"]
    for row in range(rows):
        alone = one({name: array[row : row + 1] for name, array in inputs.items()})
        assert Difference.between(found[row : row + 1], alone["model_output"]).relative < 1e-5
    assert np.array_equal(whole(swapped(inputs))["model_output"], found[::-1])


def test_onnx_runtimes_halves_are_at_work_at_once(shapes: Bundle) -> None:
    # OpenVINO's are started without waiting, on a stream each.
    engine = backend("onnxruntime").compile(blueprint(shapes, 2), TWO)
    host = Host(engine)
    both = threading.Barrier(2)
    host.begin = lambda number: both.wait(timeout=60)  # neither begins before the other does
    inputs, expected = golden(shapes)
    assert Difference.between(engine(inputs)["model_output"], expected).relative < 1e-5


@pytest.mark.parametrize("half", [1, 2])
def test_a_half_that_openvino_does_not_start_is_an_error_when_the_other_has_ended(
    shapes: Bundle, half: int
) -> None:
    def fail(number: int) -> None:
        if number == half:
            raise RuntimeError("out of memory")

    engine: Engine = backend("openvino").compile(blueprint(shapes, 2), TWO)
    inputs, expected = golden(shapes)
    host = Host(engine)
    host.begin = fail
    with pytest.raises(EngineError, match=r"^unet: OpenVINO says: out of memory$"):
        engine(inputs)
    assert (host.started, host.waited) == (half - 1, 2)
    host.begin = lambda number: None
    assert Difference.between(engine(inputs)["model_output"], expected).relative < 1e-5


@pytest.mark.parametrize("beside", [False, True])
def test_a_half_that_onnx_runtime_fails_at_is_an_error_when_the_other_has_ended(
    shapes: Bundle, beside: bool
) -> None:
    ended = threading.Event()

    def fail(number: int) -> None:
        if threading.current_thread().name.startswith("latentrt-half") is beside:
            raise RuntimeError("out of memory")
        time.sleep(0.2)
        ended.set()

    engine: Engine = backend("onnxruntime").compile(blueprint(shapes, 2), TWO)
    inputs, expected = golden(shapes)
    host = Host(engine)
    host.begin = fail
    with pytest.raises(EngineError, match=r"^unet: ONNX Runtime says: out of memory$"):
        engine(inputs)
    assert ended.is_set()
    assert host.working == 0
    host.begin = lambda number: None
    assert Difference.between(engine(inputs)["model_output"], expected).relative < 1e-5


ENDED = """
import sys, threading, time
import numpy as np
from latentrt.bundle.bundle import Bundle
from latentrt.engines.registry import backend
from latentrt.engines.engine import Blueprint, Options

sizes = {"batch": 2, "height": 16, "width": 16, "sequence": 77}
unet = Blueprint.of(Bundle.open(sys.argv[1]), "unet", sizes)
engine = backend("onnxruntime").compile(unet, Options(threads=2))
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


@pytest.mark.parametrize("name", NAMES)
def test_a_call_ends_well_though_the_engine_is_closed_meanwhile(shapes: Bundle, name: str) -> None:
    engine = backend(name).compile(blueprint(shapes, 2), TWO)
    inputs, expected = golden(shapes)
    host = Host(engine)
    host.begin = lambda number: engine.close()
    assert Difference.between(engine(inputs)["model_output"], expected).relative < 1e-5
    with pytest.raises(Closed, match="unet: the engine is closed"):
        engine(inputs)
