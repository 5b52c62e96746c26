"""Float32 islands of float16 graphs: where float16 overflows, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from tests.export.conftest import Tensors, change_json, change_tensors, manifest_of
from tests.export.golden_run import arrays, goldens_of
from tests.export.pytorch import evaluate, graph_of, models, relative

from latentrt.bundle.errors import CheckpointError
from latentrt.export.export import export

Bundles = Callable[[str], Path]
LARGEST = 65504.0  # IEEE 754 binary16
# Half a unit in the last place of float16 is 5e-4, over some twenty layers.
HALF = 1e-2

# A convolution before a GroupNorm, which takes the factor out again: the picture stays the same.
CONVOLUTION = "decoder.mid_block.resnets.0.conv1"


def scaled(prefix: str, factor: float) -> Callable[[Tensors], None]:
    """Every tensor below a name, times a factor."""
    return lambda of: of.update({n: t * factor for n, t in of.items() if n.startswith(prefix)})


@torch.inference_mode()
def peak_of(checkpoint: Path, latents: Any) -> float:
    """The largest absolute value that PyTorch has behind the convolution, in fp32."""
    vae = models(checkpoint)["vae"]
    seen: list[float] = []
    layer = vae.get_submodule(CONVOLUTION)
    layer.register_forward_hook(lambda _m, _i, given: seen.append(float(given.abs().max())))
    vae.decode(torch.from_numpy(latents))
    return seen[0]


def in_float16(bundle: Path, component: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What onnx's own evaluator computes, each node in the dtype that the graph gives it."""
    model = onnx.load(bundle / f"{component}.onnx")
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    taken = {n: a.astype(onnx.helper.tensor_dtype_to_np_dtype(kinds[n])) for n, a in inputs.items()}
    with np.errstate(all="ignore"):
        outputs = ReferenceEvaluator(model).run(None, taken)
    return dict(zip((v.name for v in model.graph.output), outputs, strict=True))


def golden(bundle: Path, component: str) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = goldens_of(bundle)
    return arrays(tensors, f"{component}/inputs/"), arrays(tensors, f"{component}/outputs/")


@pytest.fixture
def half(traced: Callable[[str], None], folder: Path) -> Path:
    """A checkpoint of the configuration "heads" to change, whose graphs are traced in float16."""
    traced("heads-fp16")
    return folder


def test_a_checkpoint_that_does_not_overflow_has_no_islands(bundle: Bundles) -> None:
    for configuration in ("heads-fp16", "shapes-fp16", "xl-fp16"):
        assert manifest_of(bundle(configuration))["islands"] == {}


def test_a_node_that_overflows_float16_computes_in_float32(half: Path, out: Path) -> None:
    change_tensors(half, "vae", scaled(CONVOLUTION, 2.0**17))
    export(half, out / "with", dtype="fp16")
    export(half, out / "without", dtype="fp16", golden=False)
    inputs, expected = golden(out / "with", "vae_decoder")
    assert peak_of(half, inputs["latents"]) > LARGEST
    without = in_float16(out / "without", "vae_decoder", inputs)["images"]
    assert not np.isfinite(without).all()
    found = in_float16(out / "with", "vae_decoder", inputs)["images"]
    assert found.dtype == np.float16
    assert relative(found, expected["images"]) < HALF
    islands = manifest_of(out / "with")["islands"]
    assert list(islands) == ["vae_decoder"]
    nodes = {n.name: n.op_type for n in graph_of(out / "with", "vae_decoder").graph.node}
    assert [nodes[name] for name in islands["vae_decoder"]] == ["Conv", "GroupNormalization"]
    assert manifest_of(out / "without")["islands"] == {}


@pytest.mark.parametrize(("share", "islands"), [(0.2, 0), (0.3, 2), (0.9, 2)])
def test_a_quarter_of_the_largest_float16_is_too_much(
    bundle: Bundles, half: Path, out: Path, share: float, islands: int
) -> None:
    # Other prompts than the one of the goldens have larger values here and there.
    latents = golden(bundle("heads-fp16"), "vae_decoder")[0]["latents"]
    change_tensors(half, "vae", scaled(CONVOLUTION, share * LARGEST / peak_of(half, latents)))
    export(half, out / "bundle", dtype="fp16")
    # The latents come out of the same U-Net, and rounding the weights moves a value by 1e-3 or so.
    assert peak_of(half, latents) == pytest.approx(share * LARGEST, rel=1e-3)
    found = manifest_of(out / "bundle")["islands"]
    assert len(found.get("vae_decoder", ())) == islands


def test_an_attention_layer_whose_scores_overflow_computes_in_float32(
    half: Path, out: Path
) -> None:
    layer = "encoder.layers.1.self_attn."
    change_tensors(
        half, "text_encoder", lambda of: [scaled(layer + n, 2.0**9)(of) for n in ("q_", "k_")]
    )
    export(half, out / "bundle", dtype="fp16")
    islands = manifest_of(out / "bundle")["islands"]
    assert list(islands) == ["text_encoder"]
    nodes = {n.name: n.op_type for n in graph_of(out / "bundle", "text_encoder").graph.node}
    assert [nodes[name] for name in islands["text_encoder"]] == ["Attention"]


def test_values_beyond_float16_need_no_islands_in_bfloat16(
    traced: Callable[[str], None], folder_xl: Path, out: Path
) -> None:
    traced("xl-bf16")
    change_tensors(folder_xl, "vae", scaled(CONVOLUTION, 2.0**17))
    export(folder_xl, out / "bundle", dtype="bf16")
    assert manifest_of(out / "bundle")["islands"] == {}


def test_an_output_that_float16_cannot_hold_is_refused_by_name(half: Path, out: Path) -> None:
    change_tensors(half, "vae", scaled("decoder.conv_out", 2.0**17))
    problem = (
        r"vae_decoder: output 'images' reaches \S+, which float16 cannot hold; .* bf16 or fp32"
    )
    with pytest.raises(CheckpointError, match=problem):
        export(half, out / "bundle", dtype="fp16")
    assert list(out.iterdir()) == []


# Where nothing is measured.


def float16_nodes(bundle: Path, component: str) -> set[str]:
    """Nodes that OpenVINO, which names layers as the graph does, gives a float16 output."""
    model = openvino.Core().read_model(bundle / f"{component}.onnx")
    return {
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() not in ("Convert", "Constant", "Parameter", "Result")
        and any(o.get_element_type() == openvino.Type.f16 for o in op.outputs())
    }


def test_without_goldens_sdxls_vae_computes_in_float32_as_in_diffusers(
    traced: Callable[[str], None],
    reference: Callable[[str], dict[str, Any]],
    folder_xl: Path,
    bundle: Bundles,
    out: Path,
) -> None:
    traced("xl-fp16")
    export(folder_xl, out / "bundle", dtype="fp16", golden=False)
    assert sorted(manifest_of(out / "bundle")["islands"]) == ["vae_decoder", "vae_encoder"]
    for component in ("vae_decoder", "vae_encoder"):
        assert float16_nodes(out / "bundle", component) == set()
        assert float16_nodes(bundle("xl-fp16"), component) != set()
    inputs, _ = golden(bundle("xl-fp16"), "vae_decoder")
    found = in_float16(out / "bundle", "vae_decoder", inputs)["images"]
    expected = evaluate(reference("xl"), "vae_decoder", inputs)["images"]
    # The weights, what goes in and what comes out are in float16, nothing between.
    assert relative(found, expected) < 2e-3


def test_without_goldens_a_vae_that_does_not_ask_for_it_stays_in_float16(
    traced: Callable[[str], None], folder_xl: Path, out: Path
) -> None:
    traced("xl-fp16")
    change_json(folder_xl / "vae" / "config.json", lambda c: c.update(force_upcast=False))
    export(folder_xl, out / "bundle", dtype="fp16", golden=False)
    assert manifest_of(out / "bundle")["islands"] == {}


def test_only_sdxls_pipeline_reads_that_a_vae_asks_for_it(half: Path, out: Path) -> None:
    # As in diffusers, where it is also what a config without the field says.
    change_json(half / "vae" / "config.json", lambda c: c.update(force_upcast=True))
    export(half, out / "bundle", dtype="fp16", golden=False)
    assert manifest_of(out / "bundle")["islands"] == {}


# Graphs with islands are graphs like any other.


def test_a_graph_with_islands_has_its_old_inputs_outputs_and_weights(half: Path, out: Path) -> None:
    change_tensors(half, "vae", scaled(CONVOLUTION, 2.0**17))
    export(half, out / "with", dtype="fp16")
    export(half, out / "without", dtype="fp16", golden=False)
    path = out / "with" / "vae_decoder.onnx"
    onnx.checker.check_model(path, full_check=True)
    one, other = (graph_of(out / name, "vae_decoder").graph for name in ("with", "without"))
    assert list(one.input) == list(other.input)
    assert list(one.output) == list(other.output)
    assert sorted(t.SerializeToString() for t in one.initializer) == sorted(
        t.SerializeToString() for t in other.initializer
    )
    kinds = [n.op_type for n in one.node]
    # Into the convolution what it convolves, its weight and bias; into the norm its scale and bias;
    # and one way out.
    assert kinds.count("Cast") == [n.op_type for n in other.node].count("Cast") + 6
