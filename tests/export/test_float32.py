"""fp32 arithmetic on weights stored in 16 bits, held against PyTorch with the weights rounded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.export.pytorch import (
    TOKENS,
    components_of,
    evaluate,
    example,
    models,
    relative,
)

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, BundleError
from latentrt.bundle.tensors import TensorFile
from latentrt.engines.cache.cache import Cache
from latentrt.engines.engine import Arrays, Blueprint, Engine
from latentrt.engines.registry import backend, choose
from latentrt.engines.verification.tolerances import TOLERANCES
from latentrt.engines.verification.verify import open_verified
from latentrt.export.float32 import to_float32

NARROW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}

each_component = pytest.mark.parametrize("component", components_of("xl"))


@pytest.fixture
def half(bundle: Callable[[str], Path]) -> Bundle:
    """The configuration "xl", which has every kind of input, stored in float16."""
    return Bundle.open(bundle("xl-fp16"))


@pytest.fixture(scope="module")
def rounded(checkpoint: Callable[[str], Path]) -> dict[str, Any]:
    """The libraries' models in fp32 with every weight rounded to float16."""
    found = models(checkpoint("xl"))
    for model in found.values():
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
    return found


def taken(bundle: Bundle, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """What a graph takes for a model's inputs: embeddings for tokens."""
    if not component.startswith("text_encoder"):
        return dict(inputs)
    table = TensorFile(bundle.weights(component))[TOKENS]
    return {"inputs_embeds": table[inputs["input_ids"]].astype(np.float32)}


def hold(engine: Engine, bundle: Bundle, rounded: Mapping[str, Any], inputs: Arrays) -> None:
    component = engine.component
    expected = evaluate(rounded, component, inputs)
    found = engine(taken(bundle, component, inputs))
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert relative(found[name], array) < TOLERANCES["fp32"].of(component), name


@each_component
def test_fp32_of_a_float16_bundle_is_pytorchs_with_the_weights_rounded(
    half: Bundle, rounded: dict[str, Any], component: str
) -> None:
    sizes, inputs = example("xl", component)
    chosen = choose("onnxruntime", half.manifest.dtype, options={"threads": 1})
    assert chosen.precision == "fp32"
    engine = chosen.compile(Blueprint.of(half, component, sizes))
    hold(engine, half, rounded, inputs)


def test_an_engine_of_a_float16_bundle_is_kept_like_any_other(
    half: Bundle, rounded: dict[str, Any], tmp_path: Path
) -> None:
    sizes, inputs = example("xl", "unet")
    chosen = choose("onnxruntime", half.manifest.dtype, options={"threads": 1})
    for known in (False, True):
        opened = open_verified(Cache(tmp_path), half, "unet", sizes, chosen)
        assert opened.hit == known
        hold(opened.engine, half, rounded, inputs)


def walk(graph: Any) -> Iterator[Any]:
    """A graph and those inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from walk(inner)


def stored(graph: Any) -> dict[str, tuple[int, dict[str, str]]]:
    """The dtype and place of every weight that lies in a file."""
    return {
        t.name: (t.data_type, {e.key: e.value for e in t.external_data})
        for t in graph.initializer
        if t.data_location == TensorProto.EXTERNAL
    }


@each_component
def test_nothing_but_stored_weights_stays_narrow_and_they_stay_where_they_are(
    half: Bundle, component: str
) -> None:
    content = half.graph(component).read_bytes()
    before = onnx.load_model_from_string(content).graph
    after = onnx.load_model_from_string(to_float32(content)).graph
    assert stored(after) == stored(before)
    assert {kind for kind, _ in stored(after).values()} == {TensorProto.FLOAT16}
    for graph in walk(after):
        for value in (*graph.input, *graph.output, *graph.value_info):
            narrow = value.type.tensor_type.elem_type in NARROW
            assert narrow == (value.name in stored(after))
        for tensor in graph.initializer:
            assert tensor.data_type not in NARROW or tensor.name in stored(after)
        for node in graph.node:
            assert not [a.name for a in node.attribute if a.name == "to" and a.i in NARROW]
            assert node.op_type == "Cast" or not set(node.input) & set(stored(after))
    assert [v.name for v in after.input] == [v.name for v in before.input]
    assert [v.name for v in after.output] == [v.name for v in before.output]


STEP = np.float32(2**-13)  # 1 + STEP is 1 in float16 and bfloat16


def branching(folder: Path, kind: int, dtype: Any) -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    """y = x * stored + 3 STEP if `positive`, else x + x + x by a loop; and what either gives."""
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.array([3.0, 5.0], dtype), "stored")
    (folder / "weights.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", "weights.bin"), ("offset", "0"), ("length", "4")):
        weight.external_data.add(key=key, value=entry)
    step = numpy_helper.from_array(np.array(STEP).astype(dtype))
    shift = numpy_helper.from_array(np.array(2 * STEP).astype(dtype), "shift")
    then = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "stored"], ["product"]),
            helper.make_node("Constant", [], ["step"], value=step),
            helper.make_node("Add", ["product", "step"], ["above"]),
            helper.make_node("Add", ["above", "shift"], ["then"]),
        ],
        "then",
        [],
        [value("then", kind, [2])],
    )
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["going"]),
            helper.make_node("Cast", ["sum"], ["cast"], to=kind),
            helper.make_node("Add", ["cast", "x"], ["next"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("sum", kind, [2]),
        ],
        [value("going", TensorProto.BOOL, []), value("next", kind, [2])],
    )
    other = helper.make_graph(
        [
            helper.make_node("Constant", [], ["two"], value_int=2),
            helper.make_node("Loop", ["two", "", "x"], ["else"], body=body),
        ],
        "else",
        [],
        [value("else", kind, [2])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other)],
        "graph",
        [value("positive", TensorProto.BOOL, []), value("x", kind, [2])],
        [value("y", kind, [2])],
        [weight, shift],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    x = np.array([1 + STEP, -2 - STEP], np.float32)
    expected = {"then": x * np.array([3, 5], np.float32) + 3 * STEP, "else": x + x + x}
    return model.SerializeToString(), expected


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_weights_inside_branches_and_loops_are_widened_too(tmp_path: Path, kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    content, expected = branching(tmp_path, kind, dtype)
    options: Any = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(tmp_path)
    )
    session: Any = onnxruntime.InferenceSession(
        to_float32(content), options, providers=["CPUExecutionProvider"]
    )
    x = np.array([1 + STEP, -2 - STEP], np.float32)
    for name, positive in (("then", True), ("else", False)):
        (y,) = session.run(None, {"x": x, "positive": np.array(positive)})
        assert np.array_equal(y, expected[name]), name  # each sum and product is exact


def test_a_16_bit_bundle_computes_in_fp32_where_onnx_is_not_installed(
    half: Bundle, rounded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    sizes, inputs = example("xl", "vae_decoder")
    for name in ("onnxruntime", "openvino"):
        chosen = choose(name, half.manifest.dtype, "fp32")
        hold(chosen.compile(Blueprint.of(half, "vae_decoder", sizes)), half, rounded, inputs)


def test_a_16_bit_bundle_without_fp32_graphs_has_to_be_exported_again(half: Bundle) -> None:
    names = {name for name in half.manifest.files if name.endswith(".fp32.onnx")}
    assert len(names) == len(half.manifest.components)
    files = {name: f for name, f in half.manifest.files.items() if name not in names}
    old = Bundle(half.path, replace(half.manifest, files=files))
    blueprint = Blueprint.of(old, "unet", example("xl", "unet")[0])
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(BundleError, match=r"unet\.onnx: has no fp32 graph .* export the check"):
            backend(name).compile(blueprint)


def test_a_damaged_graph_is_named(half: Bundle, tmp_path: Path) -> None:
    broken = tmp_path / "unet.onnx"
    broken.write_bytes(half.graph("unet").read_bytes()[:1000])
    blueprint = Blueprint.of(half, "unet", example("xl", "unet")[0])
    with pytest.raises(BuildFailed, match=r"^unet: "):
        backend("onnxruntime").compile(replace(blueprint, graph_fp32=broken))
