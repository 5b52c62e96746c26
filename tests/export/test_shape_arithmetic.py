"""Once sizes are fixed, no shape arithmetic remains of a graph; and fused operators are whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import openvino
import pytest
from diffusers.models.activations import GEGLU
from tests.export.pytorch import components_of, folder_of, graph_of, models
from transformers.activations import GELUActivation

from latentrt.bundle.bundle import Bundle
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.onnxruntime.session import norms_written_out, settings

Bundles = Callable[[str], Path]

# The tiny configurations have one VAE, and "lcm" the text encoder of "heads".
_SAME = ("vae_decoder", "vae_encoder")
GRAPHS = [
    *(("heads", component) for component in components_of("heads")),
    ("lcm", "unet"),
    *(("lists", component) for component in components_of("lists") if component not in _SAME),
    *(("xl", component) for component in components_of("xl") if component not in _SAME),
    *(("shapes", component) for component in components_of("heads")),
    *(("heads-fp16", component) for component in components_of("heads")),
]
each_graph = pytest.mark.parametrize(("configuration", "component"), GRAPHS)

# Sizes that the levels of a U-Net halve evenly, and such as they do not: 7 becomes 4, and 8 again.
EVEN = {"batch": 2, "height": 8, "width": 16, "sequence": 77}
ODD = {"batch": 1, "height": 7, "width": 9, "sequence": 21}
PIXELS = 8

# What makes or reads a shape: ONNX's names, then OpenVINO's.
ARITHMETIC = ("Shape", "Size", "ConstantOfShape", "Range", "NonZero", "Where", "Gather", "Squeeze")
ARITHMETIC_OPENVINO = ("ShapeOf", "Range", "NonZero", "Select", "Gather", "Broadcast", "Squeeze")


def sizes_of(symbols: dict[str, int]) -> dict[str, int]:
    pixels = {f"image_{axis}": PIXELS * symbols[axis] for axis in ("height", "width")}
    return {**symbols, **pixels}


def layers(model: Any) -> Counter[str]:
    """The kinds of what OpenVINO executes."""
    runtime = openvino.Core().compile_model(model, "CPU").get_runtime_model()
    return Counter(op.get_rt_info()["layerType"].astype(str) for op in runtime.get_ops())


# Only a U-Net halves and doubles its sizes, which leaves arithmetic at odd ones.
@pytest.mark.parametrize(
    ("configuration", "component", "sizes"),
    [
        *((*graph, EVEN) for graph in GRAPHS),
        *((configuration, "unet", ODD) for configuration, c in GRAPHS if c == "unet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "even" if value is EVEN else "odd",
)
def test_no_shape_arithmetic_remains_once_sizes_are_fixed(
    bundle: Bundles,
    record_property: Callable[[str, object], None],
    configuration: str,
    component: str,
    sizes: dict[str, int],
) -> None:
    path = bundle(configuration) / f"{component}.onnx"
    model = openvino.Core().read_model(path)
    # Else there would be nothing to remove.
    assert any(op.get_type_name() == "ShapeOf" for op in model.get_ops())
    dims = signature(bundle(configuration), component)
    fixed = sizes_of(sizes)
    model.reshape({name: [fixed.get(str(d), d) for d in dims[name]] for name in dims})
    found = layers(model)
    assert found["Input"] == len(dims)
    assert {kind: found[kind] for kind in ARITHMETIC_OPENVINO if found[kind]} == {}
    before = Counter(n.op_type for n in graph_of(bundle(configuration), component).graph.node)
    arithmetic = sum(before[kind] for kind in ARITHMETIC)
    line = f"{configuration} {component}: {arithmetic} nodes of shape arithmetic, 0 at fixed sizes"
    record_property("counted", line)


@each_graph
def test_no_shape_arithmetic_remains_in_onnx_runtime_either(
    bundle: Bundles, tmp_path: Path, configuration: str, component: str
) -> None:
    opened = Bundle.open(bundle(configuration))
    # In halves as in CUDA; the CPU then adds casts, but no shapes.
    precision = "fp16" if opened.manifest.dtype == "float16" else "fp32"
    blueprint = Blueprint.of(opened, component, sizes_of(EVEN), precision)
    model = norms_written_out(OnnxGraph.of(blueprint))
    chosen = settings(onnxruntime, model)
    # What this level folds is folded before any provider chooses its nodes.
    chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    chosen.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.content, chosen, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    kinds = Counter(n.op_type for n in graph.node)
    assert {kind: kinds[kind] for kind in ARITHMETIC if kinds[kind]} == {}


def signature(bundle: Path, component: str) -> dict[str, list[int | str]]:
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in graph_of(bundle, component).graph.input
    }


@each_graph
def test_every_gelu_of_the_model_is_one_node(
    bundle: Bundles, checkpoint: Bundles, configuration: str, component: str
) -> None:
    model = models(checkpoint(configuration.partition("-")[0]))[folder_of(component)]
    expected = sum(isinstance(m, GEGLU | GELUActivation) for m in model.modules())
    kinds = Counter(n.op_type for n in graph_of(bundle(configuration), component).graph.node)
    assert kinds["Gelu"] == expected
    assert kinds["Erf"] == kinds["Tanh"] == 0
