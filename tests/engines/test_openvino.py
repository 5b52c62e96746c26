"""OpenVINO's own: streams and threads, what is copied, and devices that are not there.

Nobody has run it on a GPU or an NPU. A real CPU stands in for them here: what is asked of the
library is held, not what their plugins make of it.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray
from tests.processor import HAS_BF16, needs_bf16

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import Closed, EngineError, InputError, Unavailable
from latentrt.bundle.golden import Difference
from latentrt.engines.cache.key import engine_key
from latentrt.engines.engine import Blueprint
from latentrt.engines.halved import HalvedEngine
from latentrt.engines.openvino.backend import CPU, GPU, NPU, OpenVino
from latentrt.engines.openvino.infer_request import InferRequest
from latentrt.engines.openvino.options import OpenVinoOptions
from latentrt.engines.options import NoOptions
from latentrt.engines.registry import Chosen, backend, choose
from latentrt.engines.verification.judging import golden_sizes
from latentrt.engines.verification.tolerances import TOLERANCES

# models/shapes' goldens.
UNET = {"batch": 2, "height": 16, "width": 16, "sequence": 77}


@pytest.fixture
def shapes(bundle: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle("shapes"))


@pytest.fixture
def unet(shapes: Bundle) -> Blueprint:
    return Blueprint.of(shapes, "unet", UNET)


def golden(bundle: Bundle) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    stored = bundle.golden()
    specs = bundle.manifest.components["unet"].inputs
    inputs = {s.name: np.array(stored[f"unet/inputs/{s.name}"]) for s in specs}
    return inputs, stored["unet/outputs/model_output"]


HINT = "INFERENCE_PRECISION_HINT"


class Elsewhere:
    """OpenVINO's Core on a machine with a GPU or NPU that the real one's CPU stands in for."""

    def __init__(self, ids: list[str], properties: Mapping[str, str]) -> None:
        self.ids = ids
        self.properties = properties
        self.asked: list[tuple[Any, ...]] = []
        self._real: Any = openvino.Core()

    def set_property(self, device: str, settings: dict[str, Any]) -> None:
        self._real.set_property(device, settings)

    def get_property(self, device: str, name: str) -> Any:
        if device == "CPU":
            return self._real.get_property(device, name)
        return self.ids if name == "AVAILABLE_DEVICES" else self.properties[f"{device} {name}"]

    def read_model(self, path: Path) -> Any:
        return self._real.read_model(path)

    def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
        self.asked.append((device, settings, not model.is_dynamic()))
        return self._real.compile_model(model, "CPU", settings)

    def import_model(self, content: bytes, device: str, settings: dict[str, Any]) -> Any:
        self.asked.append((device, settings))
        return self._real.import_model(content, "CPU", settings)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    properties = {
        "GPU.0 FULL_DEVICE_NAME": "Intel Arc B580",
        "NPU FULL_DEVICE_NAME": "Intel AI Boost",
        "GPU GPU_DRIVER_VERSION": "25.1",
        "NPU NPU_DRIVER_VERSION": "1.5",
    }
    found = Elsewhere(["0"], properties)
    monkeypatch.setattr(openvino, "Core", lambda: found)
    return found


@pytest.mark.parametrize(
    ("device", "ids", "names"),
    [(GPU, ["0"], ("Intel Arc B580",)), (NPU, [""], ("Intel AI Boost",))],
    ids=["gpu", "npu"],
)
def test_a_present_device_is_named_and_called_unverified(
    elsewhere: Elsewhere, device: OpenVino, ids: list[str], names: tuple[str, ...]
) -> None:
    elsewhere.ids = ids
    status = device.status()
    assert (status.devices, status.usable) == (names, True)
    assert choose("auto", "float32").name == "openvino"


@pytest.mark.parametrize("device", [GPU, NPU], ids=["gpu", "npu"])
def test_a_missing_device_is_a_problem_with_a_remedy(
    elsewhere: Elsewhere, device: OpenVino
) -> None:
    elsewhere.ids = []
    status = device.status()
    assert not status.usable
    assert status.problem == f"OpenVINO sees no {device.device} here"
    assert f"install the driver of Intel's {device.device}" in status.remedy
    with pytest.raises(Unavailable, match=rf"engine {device.name}: OpenVINO sees no .*driver"):
        choose(device.name, "float32")
    with pytest.raises(Unavailable, match="sees no"):
        device.identity(NoOptions())


def test_a_plugins_error_is_shown_without_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    # The whole of it, as 2026.4 says it where no OpenCL is installed.
    message = (
        "Exception from src/inference/src/cpp/core.cpp:268:\n"
        'Cannot load library "/x/libs/libopenvino_intel_gpu_plugin.so": '
        "libOpenCL.so.1: cannot open shared object file: No such file or directory\n"
    )

    def fail() -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(openvino, "Core", fail)
    cause = "libOpenCL.so.1: cannot open shared object file: No such file or directory"
    assert GPU.status().problem == f"OpenVINO sees no GPU here: {cause}"


@pytest.mark.parametrize("device", [CPU, GPU, NPU], ids=["cpu", "gpu", "npu"])
def test_every_device_says_so_when_openvino_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, device: OpenVino
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    status = device.status()
    assert status.version is None
    assert status.remedy == "pip install 'latentrt[openvino]'"
    with pytest.raises(Unavailable, match=rf"engine {device.name}: not installed"):
        device.identity(NoOptions())


def test_a_cache_key_has_the_device_and_its_driver(elsewhere: Elsewhere, unet: Blueprint) -> None:
    chosen = Chosen(backend("openvino-gpu"))
    key = engine_key(chosen, unet)
    assert key["openvino-gpu device"] == "Intel Arc B580"
    elsewhere.properties = {**elsewhere.properties, "GPU GPU_DRIVER_VERSION": "25.2"}
    newer = engine_key(chosen, unet)
    assert {field for field in key if key[field] != newer[field]} == {"openvino-gpu driver"}


@pytest.mark.parametrize(
    ("device", "precision", "hint"),
    [(GPU, "fp32", "f32"), (GPU, "fp16", "f16"), (NPU, "fp16", "f16")],
    ids=["gpu-fp32", "gpu-fp16", "npu"],
)
def test_a_device_is_asked_by_name_for_fixed_shapes_in_a_named_precision(
    shapes: Bundle,
    unet: Blueprint,
    elsewhere: Elsewhere,
    tmp_path: Path,
    device: OpenVino,
    precision: str,
    hint: str,
) -> None:
    unet, options = unet.at(precision), NoOptions()
    device.build(unet, options, tmp_path)
    engine = device.load(unet, options, tmp_path)
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    assert elsewhere.asked == [(device.device, settings, True), (device.device, settings)]
    # The whole model is stored, weights and all.
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) > unet.weights.stat().st_size / 2
    inputs, expected = golden(shapes)
    # The CPU computes in fp32 where it has no fp16; fp16's own rounding is some 1e-3.
    assert Difference.between(engine(inputs)["model_output"], expected).relative < 1e-2


@pytest.mark.parametrize(
    ("dtype", "first"), [("float32", "fp32"), ("float16", "fp32"), ("bfloat16", "fp32")]
)
@pytest.mark.usefixtures("bf16_offered")
def test_the_cpu_computes_in_fp32_by_itself_whatever_the_weights_are_stored_as(
    dtype: str, first: str
) -> None:
    assert choose("openvino", dtype).precision == first
    assert choose("openvino", dtype, "bf16").precision == "bf16"


@pytest.mark.parametrize(
    ("taken", "offered"), [("bf16", ("fp32", "bf16")), ("f32", ("fp32",)), ("f16", ("fp32",))]
)
def test_bf16_is_offered_where_openvino_takes_nothing_else_for_it(
    monkeypatch: pytest.MonkeyPatch, taken: str, offered: tuple[str, ...]
) -> None:
    class Processor:
        asked: Any = None

        def set_property(self, device: str, settings: dict[str, Any]) -> None:
            self.asked = (device, settings)

        def get_property(self, device: str, name: str) -> Any:
            assert self.asked == (device, {name: "bf16"}) == ("CPU", {HINT: "bf16"})
            return getattr(openvino.Type, taken)

    monkeypatch.setattr(openvino, "Core", Processor)
    assert (
        dict.fromkeys(("float32", "float16", "bfloat16"), offered) == backend("openvino").precisions
    )
    if "bf16" in offered:
        return
    message = "expected one of fp32 for openvino and float32 weights on this machine, got 'bf16'"
    for name in ("openvino", "auto"):
        with pytest.raises(InputError, match=message):
            choose(name, "float32", "bf16")


def test_a_model_computes_in_the_precision_that_was_offered(unet: Blueprint) -> None:
    offered = backend("openvino").precisions["float32"]
    taken = [
        property_of(CPU.compile(unet.at(one), OpenVinoOptions(threads=1)), HINT).get_type_name()
        for one in offered
    ]
    assert taken == [{"fp32": "f32", "bf16": "bf16"}[one] for one in offered]
    assert "bf16" in offered or not HAS_BF16


@pytest.mark.parametrize("stored", [False, True], ids=["compiled", "loaded"])
@pytest.mark.parametrize("configuration", ["heads-fp16", "xl-bf16"])
def test_fp32_of_weights_stored_in_16_bits_is_as_exact_as_of_others(
    bundle: Callable[[str], Path], tmp_path: Path, configuration: str, stored: bool
) -> None:
    opened = Bundle.open(bundle(configuration))
    goldens = opened.golden()
    for component, record in opened.manifest.components.items():
        blueprint = Blueprint.of(opened, component, golden_sizes(opened, component) or {})
        errors: dict[str, float] = {}
        for precision in backend("openvino").precisions[opened.manifest.dtype]:
            blueprint, options = blueprint.at(precision), OpenVinoOptions()
            folder = tmp_path / component / precision
            folder.mkdir(parents=True)
            if stored:
                CPU.build(blueprint, options, folder)
            engine = (
                CPU.load(blueprint, options, folder) if stored else CPU.compile(blueprint, options)
            )
            assert {s.dtype for s in (*engine.inputs, *engine.outputs)} == {"float32"}
            outputs = engine(
                {s.name: goldens[f"{component}/inputs/{s.name}"] for s in record.inputs}
            )
            errors[precision] = max(
                Difference.between(
                    outputs[s.name], goldens[f"{component}/outputs/{s.name}"]
                ).relative
                for s in record.outputs
            )
        # The goldens are PyTorch's fp32 with the weights as they are stored; to compute in 16 bits
        # anywhere, or to round what goes in or comes out, is 2e-4 off or more.
        assert errors["fp32"] < TOLERANCES["fp32"].of(component), (component, errors)
        if HAS_BF16:
            assert 1e-3 < errors["bf16"] < TOLERANCES["bf16"].of(component), (component, errors)


@pytest.mark.parametrize("stored", [False, True], ids=["compiled", "loaded"])
def test_weights_in_16_bits_have_no_copy_in_float32(
    bundle: Callable[[str], Path], tmp_path: Path, stored: bool
) -> None:
    opened = Bundle.open(bundle("heads-fp16"))
    for component in opened.manifest.components:
        sizes = golden_sizes(opened, component) or {}
        blueprint, options = Blueprint.of(opened, component, sizes), OpenVinoOptions()
        folder = tmp_path / component
        folder.mkdir()
        if stored:
            CPU.build(blueprint, options, folder)
        engine: Any = (
            CPU.load(blueprint, options, folder) if stored else CPU.compile(blueprint, options)
        )
        if isinstance(engine, HalvedEngine):
            engine = engine.half
        nodes = engine._pool._make.args[0].get_runtime_model().get_ops()
        kinds = [kind_of(node) for node in nodes]
        weights = [
            kind_of(node.input_value(1).get_node())
            for node, (layer, _) in zip(nodes, kinds, strict=True)
            if layer in ("Convolution", "FullyConnected")
        ]
        assert weights
        assert set(weights) == {("Const", "f16")}, component


def kind_of(node: Any) -> tuple[str, str]:
    """What OpenVINO executes for a node, and in which type its output is."""
    told = node.get_rt_info()
    return told["layerType"].astype(str), told["outputPrecisions"].astype(str)


def property_of(engine: Any, name: str) -> Any:
    return engine._pool._make.args[0].get_property(name)


class Working:
    """A request of a compiled model that tells when it begins to work."""

    def __init__(self, real: Any, begin: Callable[[], object]) -> None:
        self.real = real
        self.begin = begin
        self.calls = 0

    def get_tensor(self, name: str) -> Any:
        return self.real.get_tensor(name)

    def infer(self, share_outputs: bool) -> None:
        self.calls += 1
        self.begin()
        self.real.infer(share_outputs=share_outputs)

    def start_async(self, share_inputs: bool) -> None:
        self.calls += 1
        self.begin()
        self.real.start_async(share_inputs=share_inputs)

    def wait(self) -> None:
        self.real.wait()


class Watched:
    """A compiled model that remembers its requests for as long as somebody else has them."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.made: list[weakref.ref[Working]] = []
        self.begin: Callable[[], object] = lambda: None

    def create_infer_request(self) -> Working:
        request = Working(self.real.create_infer_request(), lambda: self.begin())
        self.made.append(weakref.ref(request))
        return request

    @property
    def requests(self) -> list[Working]:
        gc.collect()
        return [request for made in self.made if (request := made()) is not None]


def watched(engine: Any) -> Watched:
    """The engine's model from here on."""
    model, *specs = engine._pool._make.args
    made = Watched(model)
    engine._pool._make = partial(InferRequest, made, *specs)
    return made


@pytest.mark.parametrize("stored", [False, True], ids=["compiled", "loaded"])
def test_two_streams_work_on_two_calls_at_once(
    shapes: Bundle, unet: Blueprint, tmp_path: Path, stored: bool
) -> None:
    options = OpenVinoOptions(streams=2, threads=1)
    if stored:
        CPU.build(unet, options, tmp_path)
    engine = CPU.load(unet, options, tmp_path) if stored else CPU.compile(unet, options)
    model = watched(engine)
    inputs, _ = golden(shapes)
    calls = [inputs, {**inputs, "sample": -inputs["sample"]}]
    expected = [engine(call)["model_output"] for call in calls]
    assert [request.calls for request in model.requests] == [2]
    both = threading.Barrier(2)
    model.begin = lambda: both.wait(timeout=60)  # neither begins before the other does
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(engine, calls))
    assert [request.calls for request in model.requests] == [3, 1]
    for outputs, array in zip(found, expected, strict=True):
        assert np.array_equal(outputs["model_output"], array)


@pytest.mark.parametrize("stored", [False, True], ids=["compiled", "loaded"])
def test_two_streams_have_a_thread_each(unet: Blueprint, tmp_path: Path, stored: bool) -> None:
    options = OpenVinoOptions(streams=2, threads=1)
    if stored:
        CPU.build(unet, options, tmp_path)
    engine = CPU.load(unet, options, tmp_path) if stored else CPU.compile(unet, options)
    assert property_of(engine, "NUM_STREAMS") == 2
    assert property_of(engine, "OPTIMAL_NUMBER_OF_INFER_REQUESTS") == 2
    assert property_of(engine, "INFERENCE_NUM_THREADS") == 2
    alone = CPU.compile(unet, OpenVinoOptions(threads=1))
    assert property_of(alone, "NUM_STREAMS") == 1
    assert property_of(alone, "INFERENCE_NUM_THREADS") == 1


def test_streams_change_no_result(shapes: Bundle, unet: Blueprint) -> None:
    inputs, expected = golden(shapes)
    engine = CPU.compile(unet, OpenVinoOptions(streams=2, threads=1))
    # fp32's promise for an evaluation of the U-Net.
    assert Difference.between(engine(inputs)["model_output"], expected).relative < 1e-5


def test_a_call_that_ends_after_the_engine_was_closed_leaves_no_request(
    shapes: Bundle, unet: Blueprint
) -> None:
    engine = CPU.compile(unet, OpenVinoOptions(threads=1))
    model = watched(engine)
    inputs, expected = golden(shapes)
    engine(inputs)
    assert len(model.requests) == 1
    model.begin = engine.close
    off = Difference.between(engine(inputs)["model_output"], expected)
    assert off.relative < 1e-5
    assert model.requests == []
    with pytest.raises(Closed, match="unet: the engine is closed"):
        engine(inputs)


def test_a_call_that_openvino_refuses_is_an_engine_error_and_the_next_one_works(
    shapes: Bundle, unet: Blueprint
) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")  # what the package raises for everything

    engine = CPU.compile(unet, OpenVinoOptions(threads=1))
    model = watched(engine)
    inputs, expected = golden(shapes)
    model.begin = fail
    with pytest.raises(EngineError, match=r"^unet: OpenVINO says: out of memory$"):
        engine(inputs)
    model.begin = lambda: None
    assert Difference.between(engine(inputs)["model_output"], expected).relative < 1e-5


@pytest.mark.parametrize("field", ["threads", "streams"])
def test_threads_and_streams_are_in_the_cache_key(unet: Blueprint, field: str) -> None:
    chosen = Chosen(backend("openvino"))
    key = engine_key(chosen, unet)
    other = engine_key(replace(chosen, options=OpenVinoOptions(**{field: 2})), unet)
    assert {name for name in key if key[name] != other[name]} == {field}


def test_a_call_keeps_no_hold_of_its_inputs(shapes: Bundle, unet: Blueprint) -> None:
    engine = CPU.compile(unet, OpenVinoOptions(threads=1))
    inputs, _ = golden(shapes)
    held = [weakref.ref(array) for array in inputs.values()]
    engine(inputs)
    inputs.clear()
    gc.collect()
    assert [reference() for reference in held] == [None] * 3


@needs_bf16
def test_bf16_tells_neighbouring_timesteps_apart(shapes: Bundle, unet: Blueprint) -> None:
    # bfloat16 has 8 bits: as angles, 997 and 998 would be one number.
    inputs, expected = golden(shapes)
    engine = CPU.compile(unet.at("bf16"), OpenVinoOptions(threads=1))
    off = Difference.between(engine(inputs)["model_output"], expected)
    # 2.7e-3 was measured; 5.5e-3 with angles in bfloat16.
    assert off.relative < 4e-3
    one, other = (
        engine({**inputs, "timestep": np.full(2, timestep, np.float32)})["model_output"]
        for timestep in (997.0, 998.0)
    )
    assert not np.array_equal(one, other)
