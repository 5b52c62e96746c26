"""GroupNormalization written out for ONNX Runtime, held against PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tests.export.pytorch import components_of, relative

from latentrt.bundle.bundle import Bundle
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.group_norm import write_out_group_norms
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.onnxruntime import cpu as engine
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions
from latentrt.engines.onnxruntime.session import norms_written_out, session, settings
from latentrt.engines.verification.judging import golden_sizes
from latentrt.engines.verification.tolerances import TOLERANCES

Bundles = Callable[[str], Path]
NORM = "GroupNormalization"


def a_norm(scale: NDArray[Any], bias: NDArray[Any], rank: int, **attributes: Any) -> bytes:
    """A graph of one norm, whose every size but the channels is a symbol."""
    kind = helper.np_dtype_to_tensor_dtype(scale.dtype)
    dims = ["batch", len(scale), *(f"size{axis}" for axis in range(2, rank))]
    graph = helper.make_graph(
        [helper.make_node(NORM, ["x", "scale", "bias"], ["y"], **attributes)],
        "graph",
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info("y", kind, dims)],
        [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return model.SerializeToString()


@given(
    groups=st.integers(1, 4),
    members=st.integers(1, 3),
    batch=st.integers(1, 3),
    sizes=st.tuples(st.integers(2, 5)) | st.tuples(st.integers(2, 5), *[st.integers(1, 5)] * 2),
    epsilon=st.sampled_from([None, 1e-6, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_norm_written_out_is_pytorchs(
    groups: int, members: int, batch: int, sizes: list[int], epsilon: float | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    channels = groups * members
    x = (3 * rng.standard_normal((batch, channels, *sizes)) + 1).astype(np.float32)
    scale, bias = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    attributes = {} if epsilon is None else {"epsilon": epsilon}
    graph = a_norm(scale, bias, x.ndim, num_groups=groups, **attributes)
    providers = ["CPUExecutionProvider"]
    made = onnxruntime.InferenceSession(write_out_group_norms(graph), providers=providers)
    found: Any = made.run(None, {"x": x})[0]
    wide, *parameters = (torch.from_numpy(a).double() for a in (x, scale, bias))
    epsilon = 1e-5 if epsilon is None else epsilon
    expected = torch.nn.functional.group_norm(wide, groups, *parameters, eps=epsilon).numpy()
    # Single precision, of what is divided by a deviation that may be small.
    variance = wide.reshape(batch, groups, -1).var(2, correction=0).min().item()
    bound = 2**-21 * np.abs(x).max() / np.sqrt(variance + epsilon) * np.abs(scale).max()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < bound + 1e-6


def test_a_norm_in_float16_is_pytorchs_but_for_rounding_its_product_and_sum() -> None:
    rng = np.random.default_rng(0)
    # Squares of these are beyond float16.
    x = (1000 * rng.standard_normal((2, 6, 3, 5))).astype(np.float16)
    scale, bias = (rng.standard_normal(6).astype(np.float16) for _ in range(2))
    graph = write_out_group_norms(a_norm(scale, bias, x.ndim, num_groups=2, epsilon=300.0))
    made = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: Any = made.run(None, {"x": x})[0]
    wide, *parameters = (torch.from_numpy(a).double() for a in (x, scale, bias))
    expected = torch.nn.functional.group_norm(wide, 2, *parameters, eps=300.0).numpy()
    assert found.dtype == np.float16
    # Three roundings of 2**-11 at most: what is normal, its product, and the sum.
    assert relative(found, expected) < 3 * 2**-11


@pytest.mark.parametrize("component", components_of("heads"))
def test_a_graph_in_float16_computes_what_the_model_does(bundle: Bundles, component: str) -> None:
    opened = Bundle.open(bundle("heads-fp16"))
    sizes = golden_sizes(opened, component) or {}
    blueprint = Blueprint.of(opened, component, sizes, "fp16")
    graph = norms_written_out(OnnxGraph.of(blueprint))
    chosen = settings(onnxruntime, graph)
    made = session(onnxruntime, graph, chosen, ["CPUExecutionProvider"])
    golden = opened.golden()
    inputs = {
        s.name: golden[f"{component}/inputs/{s.name}"].astype(s.dtype) for s in blueprint.inputs
    }
    names = [spec.name for spec in blueprint.outputs]
    for name, array in zip(names, made.run(names, inputs), strict=True):
        off = relative(array, golden[f"{component}/outputs/{name}"])
        # PyTorch's fp32; nothing below 1e-5 was computed in halves.
        assert 1e-5 < off < TOLERANCES["fp16"].of(component), name


@pytest.mark.parametrize(
    ("configuration", "component"),
    [(c, component) for c in ("heads", "xl") for component in components_of(c)],
)
def test_the_rest_of_a_graph_is_unchanged(
    bundle: Bundles, configuration: str, component: str
) -> None:
    content = (bundle(configuration) / f"{component}.onnx").read_bytes()
    before = onnx.load_model_from_string(content)
    after = onnx.load_model_from_string(write_out_group_norms(content))
    names = {t.name for t in before.graph.initializer}
    norms = [n for n in before.graph.node if n.op_type == NORM]
    made = {n.output[0] for n in norms}
    assert [
        n for n in after.graph.node if not any(o.startswith(tuple(made)) for o in n.output)
    ] == [n for n in before.graph.node if n not in norms]
    counts = Counter(n.op_type for n in after.graph.node)
    assert (counts[NORM], counts["InstanceNormalization"]) == (0, len(norms))
    kept = [t for t in after.graph.initializer if t.name in names]
    assert kept == list(before.graph.initializer)
    for model in (before, after):
        del model.graph.node[:]
        del model.graph.initializer[:]
    assert after == before


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(ValueError, match="Error parsing message"):
        write_out_group_norms(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("component", "latent", "kept"),
    # Eight pixels for each place of a latent: 256 x 256 and a little more.
    [("vae_decoder", 32, False), ("vae_decoder", 33, True), ("unet", 33, False)],
)
def test_an_engines_norms_are_written_out_unless_its_pictures_are_large(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch, component: str, latent: int, kept: bool
) -> None:
    given: list[bytes] = []
    monkeypatch.setattr(engine, "session", lambda _, graph, *__: given.append(graph.content))
    sizes = {"batch": 2, "height": latent, "width": latent, "sequence": 7}
    engine.compile(
        Blueprint.of(Bundle.open(bundle("shapes")), component, sizes), OnnxRuntimeOptions()
    )
    (graph,) = given
    kinds = Counter(n.op_type for n in onnx.load_model_from_string(graph).graph.node)
    assert bool(kinds[NORM]) is kept
    assert bool(kinds["InstanceNormalization"]) is not kept
