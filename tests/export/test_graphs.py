"""Graphs: names, places of the weights, signatures, and what nodes there are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from diffusers.models.attention_processor import Attention
from tests.export.pytorch import (
    canonical,
    components_of,
    each_configuration,
    each_graph,
    folder_of,
    folders_of,
    graph_of,
    models,
    parameters,
    stored,
)
from transformers.models.clip.modeling_clip import CLIPAttention

Bundles = Callable[[str], Path]
Signature = tuple[dict[str, list[Any]], dict[str, list[Any]]]


@each_graph
def test_every_tensor_of_the_checkpoint_is_exactly_one_initialiser(
    bundle: Bundles, checkpoint: Bundles, configuration: str, component: str
) -> None:
    initialisers = graph_of(bundle(configuration), component).graph.initializer
    external = [t.name for t in initialisers if t.data_location == onnx.TensorProto.EXTERNAL]
    expected = parameters(checkpoint(configuration), component)
    assert sorted(external) == sorted(expected)
    own = [t for t in initialisers if t.data_location != onnx.TensorProto.EXTERNAL]
    # What a graph holds itself are constants of its code: axes, scales, the frequencies of the
    # timestep embedding. None is as large as a weight matrix, and none bears a weight's name.
    assert all(np.prod(t.dims) <= 64 for t in own)
    assert {t.name for t in own}.isdisjoint(expected)


@each_configuration
def test_both_halves_of_a_vae_are_all_of_it(checkpoint: Bundles, configuration: str) -> None:
    path = checkpoint(configuration)
    halves = [set(parameters(path, c)) for c in ("vae_decoder", "vae_encoder")]
    assert halves[0].isdisjoint(halves[1])
    assert halves[0] | halves[1] == set(stored(path, "vae"))


@each_graph
def test_every_initialiser_points_at_the_bytes_of_its_tensor(
    bundle: Bundles, checkpoint: Bundles, configuration: str, component: str
) -> None:
    folder = bundle(configuration)
    expected = parameters(checkpoint(configuration), component)
    weights = f"weights/{folder_of(component)}.safetensors"
    content = (folder / weights).read_bytes()
    found: set[str] = set()
    for tensor in graph_of(folder, component).graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert place["location"] == weights
        begin, length = int(place["offset"]), int(place["length"])
        reference = expected[tensor.name]
        assert content[begin : begin + length] == reference.numpy().tobytes()
        assert tuple(tensor.dims) == tuple(reference.shape)
        assert tensor.data_type == onnx.TensorProto.FLOAT
        found.add(tensor.name)
    assert found == set(expected)


@each_configuration
def test_weights_files_hold_the_checkpoints_tensors_under_canonical_names(
    bundle: Bundles, checkpoint: Bundles, configuration: str
) -> None:
    for folder in folders_of(configuration):
        path = bundle(configuration) / "weights" / f"{folder}.safetensors"
        found = safetensors.torch.load_file(path)
        expected = canonical(checkpoint(configuration), folder)
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def hidden(width: int) -> list[Any]:
    return ["batch", "sequence", width]


def text_signature(width: int, layers: int) -> Signature:
    states = {f"hidden_states.{i}": hidden(width) for i in range(layers + 1)}
    return {"inputs_embeds": hidden(width)}, {"last_hidden_state": hidden(width), **states}


def unet_signature(width: int, **added: list[Any]) -> Signature:
    latent = ["batch", 4, "height", "width"]
    inputs = {"sample": latent, "timestep": ["batch"], "encoder_hidden_states": hidden(width)}
    return {**inputs, **added}, {"model_output": latent}


VAE: dict[str, Signature] = {
    "vae_decoder": (
        {"latents": ["batch", 4, "height", "width"]},
        {"images": ["batch", 3, "height*8", "width*8"]},
    ),
    "vae_encoder": (
        {"images": ["batch", 3, "image_height", "image_width"]},
        {"moments": ["batch", 8, "image_height/8", "image_width/8"]},
    ),
}
SIGNATURES: dict[str, dict[str, Signature]] = {
    "heads": {"text_encoder": text_signature(32, 2), "unet": unet_signature(32), **VAE},
    "lists": {"text_encoder": text_signature(32, 4), "unet": unet_signature(32), **VAE},
    "lcm": {
        "text_encoder": text_signature(32, 2),
        "unet": unet_signature(32, timestep_cond=["batch", 32]),
        **VAE,
    },
    "xl": {
        "text_encoder": text_signature(32, 4),
        "text_encoder_2": text_signature(40, 5),
        "unet": unet_signature(72, text_embeds=["batch", 24], time_ids=["batch", 6]),
        **VAE,
    },
}


def signature(values: Any) -> dict[str, list[Any]]:
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
    }


@each_graph
def test_graph_and_manifest_agree_on_names_symbols_and_dtypes(
    bundle: Bundles, configuration: str, component: str
) -> None:
    graph = graph_of(bundle(configuration), component).graph
    manifest = json.loads((bundle(configuration) / "manifest.json").read_text())
    assert list(manifest["components"]) == list(SIGNATURES[configuration])
    record = manifest["components"][component]
    for found, said, expected in zip(
        (graph.input, graph.output),
        (record["inputs"], record["outputs"]),
        SIGNATURES[configuration][component],
        strict=True,
    ):
        assert list(signature(found).items()) == list(expected.items())
        assert [(s["name"], s["dims"]) for s in said] == list(expected.items())
        assert {v.type.tensor_type.elem_type for v in found} == {onnx.TensorProto.FLOAT}
        assert {s["dtype"] for s in said} == {"float32"}


@each_graph
def test_graphs_are_plain_opset_23_and_pass_the_checker(
    bundle: Bundles, configuration: str, component: str
) -> None:
    path = bundle(configuration) / f"{component}.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = graph_of(bundle(configuration), component)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 23)]
    assert {node.domain for node in model.graph.node} == {""}
    assert len(model.functions) == 0


@each_graph
def test_a_layer_of_the_model_is_one_node_of_the_graph(
    bundle: Bundles, checkpoint: Bundles, configuration: str, component: str
) -> None:
    model = models(checkpoint(configuration))[folder_of(component)]
    part = {"vae_decoder": "decoder", "vae_encoder": "encoder"}.get(component)
    modules = list((getattr(model, part) if part else model).modules())
    expected = {
        "Attention": sum(isinstance(m, Attention | CLIPAttention) for m in modules),
        "GroupNormalization": sum(isinstance(m, torch.nn.GroupNorm) for m in modules),
        "LayerNormalization": sum(isinstance(m, torch.nn.LayerNorm) for m in modules),
        "Conv": sum(isinstance(m, torch.nn.Conv2d) for m in modules),
    }
    if part:
        expected["Conv"] += 1  # (post_)quant_conv, which is beside the half it belongs to
    assert expected["Attention"] > 0
    nodes = Counter(node.op_type for node in graph_of(bundle(configuration), component).graph.node)
    assert {kind: nodes[kind] for kind in expected} == expected


def test_graphs_name_nothing_of_the_machine_they_were_made_on(bundle: Bundles) -> None:
    for component in components_of("heads"):
        model = graph_of(bundle("heads"), component)
        assert not model.metadata_props
        assert not any(n.doc_string or n.metadata_props for n in model.graph.node)
