"""Layers of graphs against PyTorch's modules: a fault is named where it is, and no other layer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.planted import FAULT, planted

from latentrt.benchmarks.numerics import layers
from latentrt.benchmarks.numerics.comparison import Check
from latentrt.benchmarks.numerics.layer_table import LayerCheck, LayerTable
from latentrt.benchmarks.numerics.layers import layer_table
from latentrt.benchmarks.numerics.reference import Reference
from latentrt.benchmarks.numerics.torch_model import TorchModel
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import Difference
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.onnxruntime import cpu as onnxruntime
from latentrt.engines.registry import choose

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
# One tensor scaled by 1.01: of a convolution, a query, an output projection, a time embedding, a
# VAE's bias; then what other families have.
FAULTS = [
    ("openvino", "shapes", "unet", "down_blocks.0.resnets.0.conv1.weight"),
    ("openvino", "lists", "unet", f"{BLOCK}.attn2.to_q.weight"),
    ("onnxruntime", "heads", "unet", f"{BLOCK}.attn1.to_out.0.weight"),
    ("onnxruntime", "heads", "unet", "time_embedding.linear_1.weight"),
    ("onnxruntime", "heads", "vae_decoder", "decoder.up_blocks.1.resnets.0.conv2.bias"),
    ("onnxruntime", "heads", "unet", "up_blocks.1.resnets.0.norm2.weight"),
    ("onnxruntime", "xl", "unet", "add_embedding.linear_2.weight"),
    ("onnxruntime", "xl", "text_encoder_2", "text_model.encoder.layers.1.self_attn.q_proj.weight"),
]


def table(
    opened: Bundle,
    component: str,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    checkpoint: Path | None = None,
    **options: int,
) -> LayerTable:
    chosen = choose(engine, opened.manifest.dtype, precision, {"threads": 1})
    original = TorchModel.of(opened, None if checkpoint is None else str(checkpoint))
    return layer_table(opened, component, chosen, original, Reference.stored(opened), **options)


@pytest.mark.parametrize(
    ("engine", "configuration"),
    [
        *(("onnxruntime", configuration) for configuration in ("lcm", "lists", "xl")),
        *(("openvino", configuration) for configuration in ("shapes", "heads")),
    ],
)
def test_every_layer_of_a_sound_bundle_is_within_tolerance(
    bundle: Callable[[str], Path], engine: str, configuration: str
) -> None:
    opened = Bundle.open(bundle(configuration))
    for component in opened.manifest.components:
        found = table(opened, component, engine)
        assert found.passed, [str(row) for row in found.origins]
        # Positions are added by no module; everything else that has weights is a layer.
        positions = ("text_model.embeddings.position_embedding",)
        assert found.unmatched == (positions if component.startswith("text") else ())


@pytest.mark.parametrize(("engine", "configuration", "component", "tensor"), FAULTS)
def test_the_layer_with_a_wrong_weight_is_named(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    engine: str,
    configuration: str,
    component: str,
    tensor: str,
) -> None:
    spoiled = planted(bundle(configuration), tmp_path / "spoiled", component, tensor)
    found = table(spoiled, component, engine, checkpoint=checkpoint(configuration))
    (origin,) = found.origins
    assert origin.name == tensor.rpartition(".")[0]
    assert tensor in origin.tensors
    # The output is a sum in which the tensor has a share.
    assert found.layers[0].tolerance < origin.difference.relative < 1.5 * (FAULT - 1)


def test_two_faults_side_by_side_are_both_named(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    attention = f"{BLOCK}.attn1"
    tensors = (f"{attention}.to_k.weight", f"{attention}.to_q.weight")
    spoiled = planted(bundle("heads"), tmp_path / "spoiled", "unet", *tensors)
    found = table(spoiled, "unet", checkpoint=checkpoint("heads"))
    assert [row.name for row in found.origins] == [f"{attention}.to_q", f"{attention}.to_k"]


def test_a_wrong_weight_that_pytorch_reads_too_shows_against_the_goldens(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    spoiled = planted(bundle("heads"), tmp_path / "spoiled", "unet", "conv_in.weight")
    found = table(spoiled, "unet")
    assert (found.own, found.origins, found.module.passed) == (True, (), False)
    trusted = table(spoiled, "unet", checkpoint=bundle("heads"))
    assert [row.name for row in trusted.origins] == ["conv_in"]
    assert trusted.module.passed
    assert trusted.weights == bundle("heads").name  # without its place


def test_a_fault_in_positions_shows_in_the_layer_behind_them(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    tensor = "text_model.embeddings.position_embedding.weight"
    spoiled = planted(bundle("heads"), tmp_path / "spoiled", "text_encoder", tensor)
    found = table(spoiled, "text_encoder", checkpoint=checkpoint("heads"))
    origin = found.origins[0]
    assert origin.name == "text_model.encoder.layers.0.layer_norm1"
    assert tensor in origin.tensors


@pytest.mark.parametrize("component", ["text_encoder_2", "unet"])
def test_layers_of_a_16_bit_bundle_agree_with_pytorch_on_the_rounded_weights(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], component: str
) -> None:
    opened = Bundle.open(bundle("xl-fp16"))
    assert table(opened, component, checkpoint=checkpoint("xl")).passed


def test_layers_in_groups_keep_within_their_room_and_have_the_same_errors(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, room = Bundle.open(bundle("heads")), 200_000
    own = {spec.name for spec in opened.manifest.components["unet"].outputs}
    groups: list[dict[str, int]] = []

    def compile(blueprint: Blueprint, options: Any) -> Engine:
        watched = [spec for spec in blueprint.outputs if spec.name not in own]
        groups.append({s.name: 4 * math.prod(s.shape(blueprint.sizes)) for s in watched})
        return actual(blueprint, options)

    actual = onnxruntime.compile
    monkeypatch.setattr(onnxruntime, "compile", compile)
    whole, parts = table(opened, "unet"), table(opened, "unet", room=room)
    first, *others = groups
    assert len(others) > 5
    assert all(sum(group.values()) <= room or len(group) == 1 for group in others)
    assert [name for group in others for name in group] == list(first)
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert (one.name, one.before, one.tensors) == (other.name, other.before, other.tensors)
        # ONNX Runtime fuses what is not watched, which rounds in another order.
        assert abs(one.difference.relative - other.difference.relative) < 1e-6


def test_weights_of_another_architecture_are_refused(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    opened = Bundle.open(bundle("heads"))
    for other in (checkpoint("lists"), bundle("lists"), checkpoint("xl")):
        with pytest.raises(InputError, match="checkpoint: expected one"):
            TorchModel.of(opened, str(other))


def row(name: str, error: float, *before: str) -> LayerCheck:
    return LayerCheck(name, Difference(error, error, 1.0), 0.1, "Linear", before, ())


def layers_of(*rows: LayerCheck, module: float = 0.0) -> LayerTable:
    whole = Check("unet", Difference(module, module, 1.0), 1e-6)
    return LayerTable("unet", "e", "fp32", "w", False, rows, (), whole)


def test_a_fault_is_named_where_it_begins_and_not_where_it_spreads() -> None:
    rows = (
        row("a", 0.0),
        row("b", 0.5, "a"),
        row("mild", 0.05, "b"),  # a norm may hide a fault for a while
        row("late", 0.5, "mild"),
        row("beside", 0.2, "a"),
    )
    found = layers_of(*rows)
    assert [each.name for each in found.origins] == ["b", "beside"]
    assert not found.passed
    assert found.to_json()["first"] == "b"


def test_a_component_without_matched_layers_has_not_passed(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if PyTorch's modules had names that no tensor of the graph begins with.
    monkeypatch.setattr(layers._TorchComponent, "_called", lambda _: {})
    found = table(Bundle.open(bundle("heads")), "vae_decoder")
    assert (found.layers, found.origins, found.module.passed) == ((), (), True)
    assert found.unmatched
    assert not found.passed


def test_a_module_error_that_is_not_finite_is_null_in_json() -> None:
    found = layers_of(row("a", 0.0), module=math.inf)
    assert not found.module.passed
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (value["module_error"], value["other_weights"]) == (None, True)


def test_the_verdict_counts_layers_and_fails_where_none_was_compared() -> None:
    found = layers_of(row("a", 1e-7))
    assert found.verdict() == [
        "1 of 1 layers in the graph compared",
        "all within tolerance, the worst a (1.0e-07)",
    ]
    none = replace(found, layers=(), unmatched=("b", "c"))
    assert none.verdict() == ["FAILED: 0 of 2 layers in the graph compared"]
