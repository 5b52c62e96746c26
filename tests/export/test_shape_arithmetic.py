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
from tests.conftest import CONFIGURATIONS
from tests.export.pytorch import components_of, folder_of, graph_of, models
from transformers.activations import GELUActivation

Bundles = Callable[[str], Path]

GRAPHS = [
    (configuration, component)
    for configuration in (*sorted(CONFIGURATIONS), "shapes", "heads-fp16")
    for component in components_of("xl" if configuration == "xl" else "heads")
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


@pytest.mark.parametrize("sizes", [EVEN, ODD], ids=["even", "odd"])
@each_graph
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


def by_onnxruntime(bundle: Path, component: str, sizes: dict[str, int], out: Path) -> Any:
    """The graph that ONNX Runtime makes of a component at these sizes."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.optimized_model_filepath = str(out / "optimised.onnx")
    for symbol, size in sizes.items():
        settings.add_free_dimension_override_by_name(symbol, size)
    onnxruntime.InferenceSession(
        bundle / f"{component}.onnx", settings, providers=["CPUExecutionProvider"]
    )
    return onnx.load(out / "optimised.onnx", load_external_data=False).graph


@each_graph
def test_onnx_runtime_keeps_only_shapes_that_a_group_norm_hides_from_it(
    bundle: Bundles,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    configuration: str,
    component: str,
) -> None:
    # It infers no shape behind a GroupNormalization before it has written it out as other nodes,
    # and folds none after: those nodes' own, and the sizes of the U-Net's upsampling.
    graph = by_onnxruntime(bundle(configuration), component, sizes_of(EVEN), tmp_path)
    kept = [n for n in graph.node if n.op_type in ARITHMETIC]
    own = [n for n in kept if not n.output[0].startswith("_inlfunc_GroupNormalization")]
    before = Counter(n.op_type for n in graph_of(bundle(configuration), component).graph.node)
    assert {n.op_type for n in kept} <= {"Shape"}
    assert len(own) <= (before["Resize"] if component == "unet" else 0)
    if not before["GroupNormalization"]:
        assert kept == []
    line = f"ONNX Runtime, {configuration} {component}: {len(own)} + {len(kept) - len(own)} Shape"
    record_property("counted", line)


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
