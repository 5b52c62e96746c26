"""Graphs in which no shape is computed, held against PyTorch."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.export.pytorch import TOKENS, components_of, evaluate, example, models, relative

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.bundle.tensors import TensorFile
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.constant_folding import fold_constants
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.onnxruntime.session import session, settings
from latentrt.engines.verification.judging import golden_sizes
from latentrt.engines.verification.tolerances import TOLERANCES

Folders = Callable[[str], Path]

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
# What computes something; the rest moves and reshapes.
WHOLE = ("Attention", "Conv", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Resize", "Sigmoid")

each_graph = pytest.mark.parametrize(
    ("configuration", "component"),
    [(c, component) for c in ("heads", "xl") for component in components_of(c)],
)


def folded(blueprint: Blueprint) -> bytes:
    return fold_constants(blueprint.graph.read_bytes(), blueprint)


def run(blueprint: Blueprint, graph: bytes, inputs: dict[str, Any]) -> dict[str, NDArray[Any]]:
    chosen = settings(onnxruntime, blueprint)
    made = session(onnxruntime, OnnxGraph(blueprint, graph), chosen, ["CPUExecutionProvider"])
    names = [s.name for s in blueprint.outputs]
    return dict(zip(names, made.run(names, inputs), strict=True))


def blueprint_of(folder: Path, configuration: str, component: str) -> Blueprint:
    sizes, _ = example(configuration, component)
    return Blueprint.of(Bundle.open(folder), component, sizes)


@each_graph
def test_no_node_gives_integers_and_what_computes_stays_whole(
    bundle: Folders, configuration: str, component: str
) -> None:
    check_folded(blueprint_of(bundle(configuration), configuration, component))


@pytest.mark.parametrize("component", components_of("heads"))
def test_a_graph_in_float16_is_folded_and_computes_in_float16_what_the_model_does(
    bundle: Folders, component: str
) -> None:
    opened = Bundle.open(bundle("heads-fp16"))
    blueprint = Blueprint.of(opened, component, golden_sizes(opened, component) or {})
    check_folded(blueprint)
    golden = opened.golden()
    inputs = {
        s.name: golden[f"{component}/inputs/{s.name}"].astype(s.dtype) for s in blueprint.inputs
    }
    found = run(blueprint, folded(blueprint), inputs)
    for spec in blueprint.outputs:
        assert found[spec.name].dtype == np.dtype(spec.dtype)
        off = relative(found[spec.name], golden[f"{component}/outputs/{spec.name}"])
        # PyTorch's fp32; nothing below 1e-5 was computed in halves.
        assert 1e-5 < off < TOLERANCES["fp16"].of(component), spec.name


def test_shapes_that_follow_from_folded_ones_are_folded_too(bundle: Folders) -> None:
    sizes = {"batch": 1, "height": 16, "width": 16, "sequence": 77}
    check_folded(Blueprint.of(Bundle.open(bundle("shapes")), "unet", sizes))


def check_folded(blueprint: Blueprint) -> None:
    before = onnx.load_model_from_string(blueprint.graph.read_bytes())
    after = onnx.shape_inference.infer_shapes(
        onnx.load_model_from_string(folded(blueprint)), check_type=True, strict_mode=True
    )
    types = {v.name: v.type.tensor_type for v in (*after.graph.value_info, *after.graph.output)}
    assert "Shape" in {n.op_type for n in before.graph.node}
    for node in after.graph.node:
        for name in node.output:
            assert types[name].elem_type in FLOATS, node
            assert all(d.HasField("dim_value") for d in types[name].shape.dim), node
    counts = [Counter(n.op_type for n in model.graph.node) for model in (before, after)]
    assert [counts[1][name] for name in WHOLE] == [counts[0][name] for name in WHOLE]
    assert counts[1]["GroupNormalization"] == 0


@each_graph
def test_a_folded_graph_computes_what_the_model_does(
    bundle: Folders, checkpoint: Folders, configuration: str, component: str
) -> None:
    blueprint = blueprint_of(bundle(configuration), configuration, component)
    _, inputs = example(configuration, component)
    expected = evaluate(models(checkpoint(configuration)), component, inputs)
    if component.startswith("text_encoder"):
        table: Any = TensorFile(blueprint.weights)[TOKENS]
        inputs = {"inputs_embeds": table[inputs["input_ids"]]}
    found = run(blueprint, folded(blueprint), inputs)
    for name, array in expected.items():
        assert relative(found[name], array) < TOLERANCES["fp32"].of(component), name


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Rounding; in float16 of what is normal, its product and its sum, 5e-4 at most each.
    [(np.float32, 1e-6), (np.float16, 1e-3)],
)
def test_a_group_norm_is_pytorchs(tmp_path: Path, dtype: Any, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    x = (100 * rng.standard_normal((2, 6, 3, 5))).astype(dtype)
    scale, bias = (rng.standard_normal(6).astype(dtype) for _ in range(2))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node(
                "GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=2, epsilon=300.0
            )
        ],
        "graph",
        [helper.make_tensor_value_info("x", kind, ["batch", 6, 3, 5])],
        [helper.make_tensor_value_info("y", kind, ["batch", 6, 3, 5])],
        [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    dims, name = ("batch", 6, 3, 5), np.dtype(dtype).name
    specs = (TensorSpec("x", dims, name),), (TensorSpec("y", dims, name),)
    weights = tmp_path / "weights" / "none"
    blueprint = Blueprint("unet", tmp_path, weights, *specs, {"batch": 2}, dtype=name)
    found = run(blueprint, fold_constants(model.SerializeToString(), blueprint), {"x": x})
    tensors = (torch.from_numpy(a).float() for a in (scale, bias))
    wide = torch.from_numpy(x).float()
    expected = torch.nn.functional.group_norm(wide, 2, *tensors, eps=300.0)
    assert found["y"].dtype == dtype
    assert relative(found["y"], expected.numpy()) < tolerance


def test_without_onnx_the_command_that_installs_it_is_named(
    bundle: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = blueprint_of(bundle("heads"), "heads", "unet")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        Unavailable, match=r"onnx is not installed; pip install 'latentrt\[onnxruntime-gpu\]'"
    ):
        folded(blueprint)


def test_a_graph_that_does_not_fold_names_the_component(bundle: Folders) -> None:
    blueprint = blueprint_of(bundle("heads"), "heads", "unet")
    content = blueprint.graph.read_bytes()
    with pytest.raises(BuildFailed, match=r"^unet: the graph cannot be folded: "):
        fold_constants(content[:1000], blueprint)
    other = blueprint_of(bundle("heads"), "heads", "vae_decoder")
    with pytest.raises(BuildFailed, match=r"^vae_decoder: the graph cannot be folded: "):
        fold_constants(content, other)
