"""Bundles in bfloat16: its weights and its arithmetic, float32 at the border."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import safetensors.torch
import torch
from tests.export.conftest import manifest_of
from tests.export.golden_run import arrays, goldens_of
from tests.export.pytorch import (
    ROUNDING,
    canonical,
    components_of,
    folders_of,
    graph_of,
    relative,
)
from tests.processor import HAS_BF16

from latentrt.export.float32 import to_float32

Bundles = Callable[[str], Path]
each_component = pytest.mark.parametrize("component", components_of("xl"))


@pytest.fixture
def half(bundle: Bundles) -> Path:
    """The configuration "xl", which has every kind of input."""
    return bundle("xl-bf16")


def test_bfloat16_weights_are_the_checkpoints_rounded(half: Path, checkpoint: Bundles) -> None:
    for folder in folders_of("xl"):
        found = safetensors.torch.load_file(half / "weights" / f"{folder}.safetensors")
        expected = canonical(checkpoint("xl"), folder)
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            assert found[name].dtype == torch.bfloat16
            assert torch.equal(found[name], tensor.bfloat16())


@each_component
def test_a_bfloat16_graph_takes_and_gives_float32_and_reads_bfloat16(
    half: Path, bundle: Bundles, component: str
) -> None:
    onnx.checker.check_model(half / f"{component}.onnx", full_check=True)
    graph = graph_of(half, component).graph
    plain = graph_of(bundle("xl"), component).graph
    for values, plain_values in ((graph.input, plain.input), (graph.output, plain.output)):
        assert [(v.name, v.type) for v in values] == [(v.name, v.type) for v in plain_values]
    kinds = {t.name: t.data_type for t in graph.initializer if t.external_data}
    assert set(kinds) == {t.name for t in plain.initializer if t.external_data}
    assert set(kinds.values()) == {onnx.TensorProto.BFLOAT16}
    manifest = manifest_of(half)
    assert manifest["dtype"] == "bfloat16"
    assert manifest["components"][component] == (manifest_of(bundle("xl"))["components"][component])


@each_component
def test_a_bfloat16_graph_computes_in_bfloat16(half: Path, component: str) -> None:
    # By OpenVINO's reading of the graph.
    model = openvino.Core().read_model(half / f"{component}.onnx")
    found = Counter(
        op.get_output_element_type(0).get_type_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() in ("Convolution", "MatMul")
    )
    assert set(found) == {"bf16"}
    assert found["bf16"] > 10


def by_openvino(bundle: Path, component: str, graph: bytes | None = None) -> dict[str, Any]:
    """What a graph of a bundle gives for its golden inputs, computed in the graph's own dtypes."""
    inputs = arrays(goldens_of(bundle), f"{component}/inputs/")
    core: Any = openvino.Core()
    path = bundle / f"{component}.onnx"
    if graph is not None:
        path = bundle / f"{component}.widened.onnx"
        path.write_bytes(graph)
    model = core.read_model(path)
    model.reshape({name: list(a.shape) for name, a in inputs.items()})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(inputs)
    return {port.any_name: np.array(results[port]) for port in compiled.outputs}


@each_component
def test_a_bfloat16_graph_is_as_near_to_fp32_as_bfloat16_is(half: Path, component: str) -> None:
    expected = arrays(goldens_of(half), f"{component}/outputs/")
    found = by_openvino(half, component)
    assert set(found) == set(expected)
    for name, array in expected.items():
        # Half a unit in the last place of bfloat16 is 4e-3, over some twenty layers.
        off = relative(found[name], array)
        assert off < 3e-2, name
        assert off > 1e-4 or not HAS_BF16, name  # without bf16 OpenVINO takes float32 for it


@each_component
def test_a_bfloat16_graph_made_float32_computes_what_pytorch_does(
    half: Path, tmp_path: Path, component: str
) -> None:
    # So what rounding hides above is in the graph: every weight, in its place. The goldens are held
    # against PyTorch in test_stored_weights.
    bundle = Path(shutil.copytree(half, tmp_path / "bundle"))
    expected = arrays(goldens_of(half), f"{component}/outputs/")
    found = by_openvino(bundle, component, to_float32((half / f"{component}.onnx").read_bytes()))
    for name, array in expected.items():
        assert relative(found[name], array) < ROUNDING, name
