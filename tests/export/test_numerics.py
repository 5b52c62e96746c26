"""What exported graphs compute, with their own weights and others, in 32 and in 16 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from tests.conftest import make_checkpoint
from tests.export.pytorch import (
    ROUNDING,
    TOKENS,
    canonical,
    components_of,
    each_graph,
    evaluate,
    example,
    folder_of,
    folders_of,
    graph_of,
    models,
    relative,
)

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.tensors import TensorFile
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.onnxruntime.cpu import OnnxRuntimeEngine
from latentrt.engines.onnxruntime.session import session, settings
from latentrt.export.export import export

Bundles = Callable[[str], Path]
# What stays float32 in a float16 graph: a timestep is near 1000, where float16 has steps of a
# half, and a size may be beyond 2048.
WIDE = {"timestep", "time_ids"}


def engine(bundle: Path, weights: Path, component: str, sizes: dict[str, int]) -> Any:
    """The graph as it was exported, in the types that it has."""
    record = Bundle.open(bundle).manifest.components[component]
    blueprint = Blueprint(
        component=component,
        graph=bundle / record.graph,
        weights=weights / record.weights,
        inputs=record.inputs,
        outputs=record.outputs,
        sizes=sizes,
    )
    model = OnnxGraph(blueprint, blueprint.graph.read_bytes())
    chosen = settings(onnxruntime, model)
    chosen.intra_op_num_threads = 1
    made = session(onnxruntime, model, chosen, ["CPUExecutionProvider"])
    return OnnxRuntimeEngine(blueprint, made)


def taken(weights: Path, component: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What a graph takes for a model's inputs: embeddings for tokens."""
    if not component.startswith("text_encoder"):
        return inputs
    table = TensorFile(weights / "weights" / f"{component}.safetensors")[TOKENS]
    return {"inputs_embeds": table[inputs["input_ids"]]}


@each_graph
def test_a_graph_computes_what_the_model_does_at_sizes_that_were_not_traced(
    bundle: Bundles,
    reference: Callable[[str], dict[str, Any]],
    configuration: str,
    component: str,
) -> None:
    folder = bundle(configuration)
    sizes, inputs = example(configuration, component)
    expected = evaluate(reference(configuration), component, inputs)
    found = engine(folder, folder, component, sizes)(taken(folder, component, inputs))
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert relative(found[name], array) < ROUNDING, name


# Other weights, without tracing.


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Another checkpoint of the configuration "heads", and its bundle."""
    folder = tmp_path_factory.mktemp("second")
    checkpoint = make_checkpoint(folder / "checkpoint", "heads", seed=1)
    export(checkpoint, folder / "bundle", golden=False)
    return checkpoint, folder / "bundle"


each_component = pytest.mark.parametrize("component", components_of("heads"))


@each_component
def test_checkpoints_of_one_configuration_give_one_graph(
    bundle: Bundles, second: tuple[Path, Path], component: str
) -> None:
    graphs = [(b / f"{component}.onnx").read_bytes() for b in (bundle("heads"), second[1])]
    assert graphs[0] == graphs[1]
    weights = [
        (b / "weights" / f"{folder_of(component)}.safetensors").read_bytes()
        for b in (bundle("heads"), second[1])
    ]
    assert weights[0] != weights[1]


@each_component
def test_a_graph_computes_with_another_checkpoints_weights(
    bundle: Bundles, second: tuple[Path, Path], component: str
) -> None:
    checkpoint, other = second
    sizes, inputs = example("heads", component)
    expected = evaluate(models(checkpoint), component, inputs)
    found = engine(bundle("heads"), other, component, sizes)(taken(other, component, inputs))
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert relative(found[name], array) < ROUNDING, name


# In 16 bits.


@pytest.fixture
def half(bundle: Bundles) -> Path:
    """The configuration "xl", which has every kind of input, stored in float16."""
    return bundle("xl-fp16")


each_half = pytest.mark.parametrize("component", components_of("xl"))


def test_float16_weights_are_the_checkpoints_rounded(half: Path, checkpoint: Bundles) -> None:
    for folder in folders_of("xl"):
        found = safetensors.torch.load_file(half / "weights" / f"{folder}.safetensors")
        expected = canonical(checkpoint("xl"), folder)
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            assert found[name].dtype == torch.float16
            assert torch.equal(found[name], tensor.half())


@each_half
def test_a_float16_graph_takes_float16_and_reads_float16(half: Path, component: str) -> None:
    path = half / f"{component}.onnx"
    onnx.checker.check_model(path, full_check=True)
    graph = graph_of(half, component).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    for name in WIDE:
        assert kinds.pop(name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT16}
    content = (half / "weights" / f"{folder_of(component)}.safetensors").read_bytes()
    stored = safetensors.torch.load(content)
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            begin, length = int(place["offset"]), int(place["length"])
            assert content[begin : begin + length] == stored[tensor.name].numpy().tobytes()
            assert tensor.data_type == onnx.TensorProto.FLOAT16
    manifest = json.loads((half / "manifest.json").read_text())
    assert manifest["dtype"] == "float16"
    record = manifest["components"][component]
    for spec in (*record["inputs"], *record["outputs"]):
        assert spec["dtype"] == ("float32" if spec["name"] in WIDE else "float16")


@each_half
def test_a_float16_graph_computes_what_the_model_does(
    half: Path, reference: Callable[[str], dict[str, Any]], component: str
) -> None:
    sizes, inputs = example("xl", component)
    expected = evaluate(reference("xl"), component, inputs)
    inputs = taken(half, component, inputs)
    inputs = {n: a if n in WIDE else a.astype(np.float16) for n, a in inputs.items()}
    found = engine(half, half, component, sizes)(inputs)
    for name, array in expected.items():
        # Half a unit in the last place of float16 is 5e-4, over some twenty layers.
        assert relative(found[name], array) < 1e-2, name
