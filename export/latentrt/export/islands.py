"""Islands: the nodes of a float16 graph that compute in float32, where float16 would overflow.

They are found by measurement. The graph is evaluated in fp32 on the golden inputs, and every value
inside it is compared with the largest float16, 65504. The golden inputs come from one prompt, and
another prompt's values may be larger. So a quarter of that is the limit. A node whose output is
above it computes in float32, and so does every node that reads that output, which would overflow
otherwise. The scores inside an attention layer are measured as well.

Other sums inside a node are not measured. Kernels for float16 sum in float32, and so do the norms,
as their graph states.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError, Unavailable
from latentrt.engines import libraries
from latentrt.export import trace
from latentrt.export.casts import READS_SHAPE, dtypes_of, nodes_in_float32

LARGEST: Final = float(np.finfo(np.float16).max)
SHARE: Final = 0.25
"""Share of the largest float16: a larger value on the golden inputs makes an island."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """A value of the graph, and the nodes that need float32 if it is too large for float16."""

    value: ir.Value
    name: str
    nodes: tuple[str, ...]


def check_measurable() -> None:
    """Raise `Unavailable` without ONNX Runtime, which the measurement needs."""
    if importlib.util.find_spec("onnxruntime") is None:
        problem = "ONNX Runtime, which measures where float16 overflows, is not installed"
        raise Unavailable(f"{problem}; pip install 'latentrt[onnxruntime]', or --no-golden")


def measured_islands(graph: Path, inputs: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """The nodes of a bundle's float16 graph that overflow, or nearly do, on these inputs.

    In the graph's order. Raises `CheckpointError` if an output of the graph exceeds float16.
    """
    model = _read(graph)
    outputs = {value.name for value in model.graph.outputs}
    order = [str(node.name) for node in model.graph]
    found: set[str] = set()
    for probe, peak in _peaks(model, graph.parent, inputs):
        if probe.name in outputs and not peak <= LARGEST:
            problem = f"output {probe.name!r} reaches {peak:.3g}, which float16 cannot hold"
            raise CheckpointError(graph.stem, f"{problem}; export it with bf16 or fp32")
        if not peak <= SHARE * LARGEST:
            found.update(probe.nodes)
    return tuple(name for name in order if name in found)


def upcast(graph: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A float16 graph whose nodes all compute in float32, and these nodes in the graph's order."""
    model = ir.from_proto(onnx.load_model_from_string(graph))
    dtypes = dtypes_of(model)
    names = tuple(
        str(node.name)
        for node in model.graph
        if node.op_type not in READS_SHAPE
        and any(dtypes.get(v) == ir.DataType.FLOAT16 for v in (*node.inputs, *node.outputs) if v)
    )
    nodes_in_float32(model, names)
    return trace.to_bytes(model), names


def set_apart(graph: Path, names: Collection[str]) -> None:
    """Let these nodes of a bundle's graph compute in float32."""
    model = _read(graph)
    nodes_in_float32(model, names)
    graph.write_bytes(trace.to_bytes(model))


def _read(graph: Path) -> ir.Model:
    return ir.from_proto(onnx.load(graph, load_external_data=False))


def _peaks(
    model: ir.Model, folder: Path, inputs: Mapping[str, NDArray[Any]]
) -> list[tuple[_Probe, float]]:
    """The largest absolute value of everything float16, computed in fp32.

    The graph's only outputs are these numbers, so that every array inside it is freed early. At
    real size most of the memory is its weights in fp32 and the scores of one attention layer.
    """
    dtypes = dtypes_of(model)
    probes = [
        _Probe(value, str(value.name), _touched(node, value))
        for node in model.graph
        for value in node.outputs
        if dtypes[value] == ir.DataType.FLOAT16
    ]
    nodes_in_float32(model, {str(node.name) for node in model.graph})
    probes += [_scores(node) for node in model.graph if node.op_type == "Attention"]
    model.graph.outputs.clear()
    model.graph.outputs.extend(_peak(model, probe.value) for probe in probes)
    session = _session(ir.to_proto(model).SerializeToString(), folder)
    taken = {
        name: inputs[name].astype(dtypes[value].numpy())
        for name, value in ((str(v.name), v) for v in model.graph.inputs)
    }
    peaks: Any = session.run(None, taken)
    return [(probe, float(peak)) for probe, peak in zip(probes, peaks, strict=True)]


def _touched(node: ir.Node, value: ir.Value) -> tuple[str, ...]:
    """The node that gives a value, and the nodes that read it."""
    takers = [user for user in value.consumers() if user.op_type not in READS_SHAPE]
    return tuple(str(n.name) for n in (node, *takers))


def _scores(node: ir.Node) -> _Probe:
    """An attention layer's queries times its keys, before the softmax."""
    node.resize_outputs(4)
    _, key, value, scores = node.outputs
    key.name = value.name = ""
    scores.name = f"{node.name}.scores"
    return _Probe(scores, scores.name, (str(node.name),))


def _peak(model: ir.Model, value: ir.Value) -> ir.Value:
    """A scalar, the largest absolute value, made without an array of absolute values."""
    largest = ir.node("ReduceMax", [value], {"keepdims": 0})
    smallest = ir.node("ReduceMin", [value], {"keepdims": 0})
    negated = ir.node("Neg", smallest.outputs)
    peak = ir.node("Max", [*largest.outputs, *negated.outputs])
    for i, node in enumerate((largest, smallest, negated, peak)):
        node.name = node.outputs[0].name = f"{value.name}.peak.{i}"
    producer = value.producer()
    assert producer is not None
    model.graph.insert_after(producer, (largest, smallest, negated, peak))
    peak.outputs[0].type, peak.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    return peak.outputs[0]


def _session(graph: bytes, folder: Path) -> Any:
    onnxruntime = libraries.onnxruntime()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    # Folding would keep a second copy of the weights. In the default order every number above
    # is computed at the end, and its array stays in memory until then.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    settings.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    return onnxruntime.InferenceSession(graph, settings, ["CPUExecutionProvider"])
