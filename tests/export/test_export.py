"""Exported bundles, held against the libraries' own models; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import safetensors.torch
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from tests.conftest import CONFIGURATIONS, make_checkpoint
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPAttention

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.tensors import TensorFile
from latentrt.engines import onnxruntime
from latentrt.engines.engine import Blueprint, Options
from latentrt.export import trace
from latentrt.export.export import export
from latentrt.export.modules import Component, Config

Bundles = Callable[[str], Path]
COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
FOLDERS = {c: "vae" if c.startswith("vae") else c for c in COMPONENTS}
FILES = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
TOKENS = "text_model.embeddings.token_embedding.weight"
# PyTorch against itself: the same operations, in another order where a batch is split otherwise.
SAME = 1e-6
# ONNX Runtime against PyTorch in fp32: rounding over some fifty layers.
ROUNDING = 1e-5

each_configuration = pytest.mark.parametrize("configuration", sorted(CONFIGURATIONS))
each_component = pytest.mark.parametrize("component", COMPONENTS)


def relative(actual: Any, expected: Any) -> float:
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def stored(checkpoint: Path, folder: str) -> dict[str, torch.Tensor]:
    """A component's tensors as the safetensors library reads them."""
    return safetensors.torch.load_file(checkpoint / folder / FILES[folder])


def canonical(checkpoint: Path, folder: str) -> dict[str, torch.Tensor]:
    """The same, under the names that graphs use."""
    prefix = "text_model." if folder == "text_encoder" else ""
    tensors = stored(checkpoint, folder)
    return {prefix + name.removeprefix(prefix): t for name, t in tensors.items()}


def models(checkpoint: Path) -> dict[str, Any]:
    """The libraries' own models, loaded by the libraries."""
    settings: dict[str, Any] = {"low_cpu_mem_usage": False}
    return {
        "text_encoder": CLIPTextModel.from_pretrained(checkpoint / "text_encoder").eval(),
        "unet": UNet2DConditionModel.from_pretrained(checkpoint / "unet", **settings).eval(),
        "vae": AutoencoderKL.from_pretrained(checkpoint / "vae", **settings).eval(),
    }


@torch.inference_mode()
def evaluate(of: Mapping[str, Any], component: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by name; a text encoder takes `input_ids`, since the library looks tokens up."""
    tensors: dict[str, Any] = {name: torch.from_numpy(np.array(a)) for name, a in inputs.items()}
    if component == "text_encoder":
        found = of["text_encoder"](tensors["input_ids"], output_hidden_states=True)
        hidden = {f"hidden_states.{i}": h.numpy() for i, h in enumerate(found.hidden_states)}
        return {"last_hidden_state": found.last_hidden_state.numpy(), **hidden}
    if component == "unet":
        return {"model_output": of["unet"](**tensors).sample.numpy()}
    if component == "vae_decoder":
        return {"images": of["vae"].decode(tensors["latents"]).sample.numpy()}
    posterior = of["vae"].encode(tensors["images"]).latent_dist
    return {"moments": posterior.parameters.numpy()}


# Graphs.


def expected_parameters(checkpoint: Path, component: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint that belong to a graph."""
    tensors = canonical(checkpoint, FOLDERS[component])
    if component == "text_encoder":
        del tensors[TOKENS]  # NumPy looks tokens up, so that new ones need no other graph
    halves = {
        "vae_decoder": ("decoder.", "post_quant_conv."),
        "vae_encoder": ("encoder.", "quant_conv."),
    }
    beginning = halves.get(component, ("",))
    return {name: t for name, t in tensors.items() if name.startswith(beginning)}


def graph_of(bundle: Path, component: str) -> onnx.ModelProto:
    return onnx.load(bundle / f"{component}.onnx", load_external_data=False)


@each_component
@each_configuration
def test_every_tensor_of_the_checkpoint_is_exactly_one_initialiser(
    bundle: Bundles, checkpoint: Bundles, configuration: str, component: str
) -> None:
    initialisers = graph_of(bundle(configuration), component).graph.initializer
    external = [t.name for t in initialisers if t.data_location == onnx.TensorProto.EXTERNAL]
    expected = expected_parameters(checkpoint(configuration), component)
    assert sorted(external) == sorted(expected)
    own = [t for t in initialisers if t.data_location != onnx.TensorProto.EXTERNAL]
    # What a graph holds itself are constants of its code: axes, scales, the frequencies of the
    # timestep embedding. None is as large as a weight matrix, and none bears a weight's name.
    assert all(np.prod(t.dims) <= 64 for t in own)
    assert {t.name for t in own}.isdisjoint(expected)


@each_configuration
def test_both_halves_of_a_vae_are_all_of_it(checkpoint: Bundles, configuration: str) -> None:
    path = checkpoint(configuration)
    halves = [set(expected_parameters(path, c)) for c in ("vae_decoder", "vae_encoder")]
    assert halves[0].isdisjoint(halves[1])
    assert halves[0] | halves[1] == set(stored(path, "vae"))


@each_component
@each_configuration
def test_every_initialiser_points_at_the_bytes_of_its_tensor(
    bundle: Bundles, checkpoint: Bundles, configuration: str, component: str
) -> None:
    folder = bundle(configuration)
    expected = expected_parameters(checkpoint(configuration), component)
    weights = f"weights/{FOLDERS[component]}.safetensors"
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
    for folder in FILES:
        path = bundle(configuration) / "weights" / f"{folder}.safetensors"
        found = safetensors.torch.load_file(path)
        expected = canonical(checkpoint(configuration), folder)
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


HIDDEN = ["batch", "sequence", 32]
SIGNATURES: dict[str, tuple[dict[str, list[Any]], dict[str, list[Any]]]] = {
    "text_encoder": (
        {"inputs_embeds": HIDDEN},
        {
            "last_hidden_state": HIDDEN,
            "hidden_states.0": HIDDEN,
            "hidden_states.1": HIDDEN,
            "hidden_states.2": HIDDEN,
        },
    ),
    "unet": (
        {
            "sample": ["batch", 4, "height", "width"],
            "timestep": ["batch"],
            "encoder_hidden_states": HIDDEN,
        },
        {"model_output": ["batch", 4, "height", "width"]},
    ),
    "vae_decoder": (
        {"latents": ["batch", 4, "height", "width"]},
        {"images": ["batch", 3, "height*8", "width*8"]},
    ),
    "vae_encoder": (
        {"images": ["batch", 3, "image_height", "image_width"]},
        {"moments": ["batch", 8, "image_height/8", "image_width/8"]},
    ),
}


def signature(values: Any) -> dict[str, list[Any]]:
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
    }


@each_component
@each_configuration
def test_graph_and_manifest_agree_on_names_symbols_and_dtypes(
    bundle: Bundles, configuration: str, component: str
) -> None:
    graph = graph_of(bundle(configuration), component).graph
    manifest = json.loads((bundle(configuration) / "manifest.json").read_text())
    record = manifest["components"][component]
    for found, said, expected in zip(
        (graph.input, graph.output),
        (record["inputs"], record["outputs"]),
        SIGNATURES[component],
        strict=True,
    ):
        assert list(signature(found).items()) == list(expected.items())
        assert [(s["name"], s["dims"]) for s in said] == list(expected.items())
        assert {v.type.tensor_type.elem_type for v in found} == {onnx.TensorProto.FLOAT}
        assert {s["dtype"] for s in said} == {"float32"}


@each_component
@each_configuration
def test_graphs_are_plain_opset_23_and_pass_the_checker(
    bundle: Bundles, configuration: str, component: str
) -> None:
    path = bundle(configuration) / f"{component}.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = graph_of(bundle(configuration), component)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 23)]
    assert {node.domain for node in model.graph.node} == {""}
    assert len(model.functions) == 0


@each_component
@each_configuration
def test_a_layer_of_the_model_is_one_node_of_the_graph(
    bundle: Bundles, checkpoint: Bundles, configuration: str, component: str
) -> None:
    model = models(checkpoint(configuration))[FOLDERS[component]]
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
    for component in COMPONENTS:
        model = graph_of(bundle("heads"), component)
        assert not model.metadata_props
        assert not any(n.doc_string or n.metadata_props for n in model.graph.node)


# Goldens.


@pytest.fixture(scope="module")
def reference(checkpoint: Bundles) -> Callable[[str], dict[str, Any]]:
    """The libraries' models by configuration, loaded once."""
    loaded: dict[str, dict[str, Any]] = {}

    def get(configuration: str) -> dict[str, Any]:
        if configuration not in loaded:
            loaded[configuration] = models(checkpoint(configuration))
        return loaded[configuration]

    return get


def arrays(golden: Mapping[str, torch.Tensor], prefix: str) -> dict[str, NDArray[Any]]:
    names = [name for name in golden if name.startswith(prefix)]
    return {name.removeprefix(prefix): golden[name].numpy() for name in names}


@each_component
@each_configuration
def test_goldens_of_a_component_are_what_the_libraries_compute(
    bundle: Bundles,
    reference: Callable[[str], dict[str, Any]],
    configuration: str,
    component: str,
) -> None:
    golden = safetensors.torch.load_file(bundle(configuration) / "golden.safetensors")
    inputs = arrays(golden, f"{component}/inputs/")
    outputs = arrays(golden, f"{component}/outputs/")
    assert set(inputs) == set(SIGNATURES[component][0])
    assert set(outputs) == set(SIGNATURES[component][1])
    if component == "text_encoder":
        ids = torch.cat([golden["run/negative_input_ids"], golden["run/input_ids"]])
        embedding = reference(configuration)["text_encoder"].get_input_embeddings()
        np.testing.assert_array_equal(inputs["inputs_embeds"], embedding(ids).detach().numpy())
        inputs = {"input_ids": ids.numpy()}
    expected = evaluate(reference(configuration), component, inputs)
    for name, array in outputs.items():
        assert array.dtype == np.float32
        assert relative(array, expected[name]) < SAME, name


@each_configuration
def test_the_golden_run_is_the_run_of_diffusers_pipeline(
    bundle: Bundles, checkpoint: Bundles, configuration: str
) -> None:
    golden = safetensors.torch.load_file(bundle(configuration) / "golden.safetensors")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        checkpoint(configuration), safety_checker=None, low_cpu_mem_usage=False
    )
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    steps: list[torch.Tensor] = []

    def keep(_pipe: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        steps.append(kwargs["latents"].clone())
        return {}

    latents = pipeline(
        "a large red circle on a blue background",
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=golden["run/latents"],
        output_type="latent",
        callback_on_step_end=keep,
    ).images
    assert len(steps) == 4
    for i, expected in enumerate(steps):
        assert relative(golden[f"run/steps/{i}/latents"], expected) < SAME
    with torch.inference_mode():
        scaled = latents / pipeline.vae.config.scaling_factor
        images = pipeline.vae.decode(scaled).sample
    assert relative(golden["run/images"], images) < SAME
    scheduler: Any = pipeline.scheduler
    assert torch.equal(golden["run/timesteps"], scheduler.timesteps.float())
    assert relative(golden["run/sigmas"], scheduler.sigmas) < SAME
    assert golden["run/guidance_scale"].tolist() == [5.0]


@each_configuration
def test_golden_tokens_are_the_tokenizers(
    bundle: Bundles, checkpoint: Bundles, configuration: str
) -> None:
    golden = safetensors.torch.load_file(bundle(configuration) / "golden.safetensors")
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint(configuration) / "tokenizer")
    texts = ["a large red circle on a blue background", ""]
    ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert torch.equal(golden["run/input_ids"], ids[:1])
    assert torch.equal(golden["run/negative_input_ids"], ids[1:])


def test_the_starting_noise_has_unit_variance(bundle: Bundles) -> None:
    noise = safetensors.torch.load_file(bundle("heads") / "golden.safetensors")["run/latents"]
    assert noise.shape == (1, 4, 8, 8)
    # 256 draws: the variance of their variance is 2 / 256, its root 0.09; six of them either way.
    assert abs(float(noise.var()) - 1) < 0.53


# Other weights, without tracing.


def engine(bundle: Path, weights: Path, component: str, sizes: dict[str, int]) -> Any:
    record = Bundle.open(bundle).manifest.components[component]
    blueprint = Blueprint(
        component=component,
        graph=bundle / record.graph,
        weights=weights / record.weights,
        inputs=record.inputs,
        outputs=record.outputs,
        sizes=sizes,
    )
    return onnxruntime.compile(blueprint, Options(threads=1))


def example(component: str) -> tuple[dict[str, int], dict[str, NDArray[Any]]]:
    """Sizes that were not traced, and inputs of these sizes."""
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    if component == "text_encoder":
        ids = rng.integers(0, 300, (3, 21))
        return {"batch": 3, "sequence": 21}, {"input_ids": ids}
    if component == "vae_encoder":
        sizes = {"batch": 1, "image_height": 40, "image_width": 64}
        return sizes, {"images": normal(1, 3, 40, 64)}
    sizes = {"batch": 3, "height": 6, "width": 10}
    if component == "vae_decoder":
        return sizes, {"latents": normal(3, 4, 6, 10)}
    inputs = {
        "sample": normal(3, 4, 6, 10),
        "timestep": np.array([1.0, 500.5, 999.0], np.float32),
        "encoder_hidden_states": normal(3, 11, 32),
    }
    return {**sizes, "sequence": 11}, inputs


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Another checkpoint of the configuration "heads", and its bundle, traced by itself."""
    folder = tmp_path_factory.mktemp("second")
    checkpoint = make_checkpoint(folder / "checkpoint", "heads", seed=1)
    export(checkpoint, folder / "bundle", golden=False)
    return checkpoint, folder / "bundle"


@each_component
def test_checkpoints_of_one_configuration_give_one_graph(
    bundle: Bundles, second: tuple[Path, Path], component: str
) -> None:
    graphs = [(b / f"{component}.onnx").read_bytes() for b in (bundle("heads"), second[1])]
    assert graphs[0] == graphs[1]
    weights = [
        (b / "weights" / f"{FOLDERS[component]}.safetensors").read_bytes()
        for b in (bundle("heads"), second[1])
    ]
    assert weights[0] != weights[1]


@each_component
def test_a_graph_computes_with_another_checkpoints_weights(
    bundle: Bundles, second: tuple[Path, Path], component: str
) -> None:
    checkpoint, other = second
    sizes, inputs = example(component)
    expected = evaluate(models(checkpoint), component, inputs)
    if component == "text_encoder":
        table = TensorFile(other / "weights" / "text_encoder.safetensors")[TOKENS]
        inputs = {"inputs_embeds": table[inputs["input_ids"]]}
    found = engine(bundle("heads"), other, component, sizes)(inputs)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert relative(found[name], array) < ROUNDING, name


# In 16 bits.


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, checkpoint: Bundles) -> Path:
    """The configuration "heads" stored in float16."""
    folder = tmp_path_factory.mktemp("half") / "bundle"
    export(checkpoint("heads"), folder, dtype="fp16", golden=False)
    return folder


def test_float16_weights_are_the_checkpoints_rounded(half: Path, checkpoint: Bundles) -> None:
    for folder in FILES:
        found = safetensors.torch.load_file(half / "weights" / f"{folder}.safetensors")
        expected = canonical(checkpoint("heads"), folder)
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            assert found[name].dtype == torch.float16
            assert torch.equal(found[name], tensor.half())


@each_component
def test_a_float16_graph_takes_float16_and_reads_float16(half: Path, component: str) -> None:
    path = half / f"{component}.onnx"
    onnx.checker.check_model(path, full_check=True)
    graph = graph_of(half, component).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    # A timestep is near 1000, where float16 has steps of a half.
    assert kinds.pop("timestep", onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT16}
    content = (half / "weights" / f"{FOLDERS[component]}.safetensors").read_bytes()
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
        assert spec["dtype"] == ("float32" if spec["name"] == "timestep" else "float16")


@each_component
def test_a_float16_graph_computes_what_the_model_does(
    half: Path, reference: Callable[[str], dict[str, Any]], component: str
) -> None:
    sizes, inputs = example(component)
    expected = evaluate(reference("heads"), component, inputs)
    if component == "text_encoder":
        table = TensorFile(half / "weights" / "text_encoder.safetensors")[TOKENS]
        inputs = {"inputs_embeds": table[inputs["input_ids"]]}
    inputs = {n: a if n == "timestep" else a.astype(np.float16) for n, a in inputs.items()}
    found = engine(half, half, component, sizes)(inputs)
    for name, array in expected.items():
        # Half a unit in the last place of float16 is 5e-4, over some twenty layers.
        assert relative(found[name], array) < 1e-2, name


# What tracing has no part in.


@pytest.fixture
def traced(bundle: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing gives the graphs of the configuration "heads", which were traced once."""
    folder = bundle("heads")

    def load(component: Component, config: Config, dtype: str) -> ir.Model:
        del config, dtype
        return ir.from_proto(graph_of(folder, component.name))

    monkeypatch.setattr(trace, "trace", load)


@pytest.fixture
def folder(checkpoint: Bundles, tmp_path: Path) -> Path:
    """A checkpoint of one's own, to change."""
    return Path(shutil.copytree(checkpoint("heads"), tmp_path / "it"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder in which nothing but the bundle should be."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


Tensors = dict[str, torch.Tensor]


def change_tensors(folder: Path, component: str, change: Callable[[Tensors], object]) -> None:
    """Rewrite a component's tensors by the safetensors library."""
    path = folder / component / FILES[component]
    tensors = stored(folder, component)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def manifest_of(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text())


@pytest.mark.usefixtures("traced")
def test_the_graphs_traced_once_give_the_same_bundle(
    bundle: Bundles, checkpoint: Bundles, out: Path
) -> None:
    # So what is tested with them holds for an export that traces.
    export(checkpoint("heads"), out / "bundle")
    one, other = bundle("heads"), out / "bundle"
    names = {str(p.relative_to(one)) for p in one.rglob("*") if p.is_file()}
    assert {str(p.relative_to(other)) for p in other.rglob("*") if p.is_file()} == names
    for name in names - {"golden.safetensors", "manifest.json"}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.usefixtures("traced")
def test_without_goldens_there_are_none_and_the_manifest_says_so(folder: Path, out: Path) -> None:
    export(folder, out / "bundle", golden=False)
    assert not (out / "bundle" / "golden.safetensors").exists()
    assert "golden.safetensors" not in manifest_of(out / "bundle")["files"]
    assert not Bundle.open(out / "bundle", verify=True).manifest.has_goldens


def test_with_goldens_the_manifest_says_so(bundle: Bundles) -> None:
    assert "golden.safetensors" in manifest_of(bundle("heads"))["files"]
    assert Bundle.open(bundle("heads"), verify=True).manifest.has_goldens


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stored_in_another_dtype_become_float32(
    folder: Path, out: Path, dtype: torch.dtype
) -> None:
    for component in FILES:
        change_tensors(
            folder, component, lambda t: t.update({n: x.to(dtype) for n, x in t.items()})
        )
    export(folder, out / "bundle", golden=False)
    for component in FILES:
        path = out / "bundle" / "weights" / f"{component}.safetensors"
        found = safetensors.torch.load_file(path)
        expected = canonical(folder, component)
        assert all(torch.equal(found[name], expected[name].float()) for name in expected)
        assert all(t.dtype == torch.float32 for t in found.values())


@pytest.mark.usefixtures("traced")
def test_shards_and_other_names_give_the_same_weights_and_are_reported(
    bundle: Bundles, folder: Path, out: Path
) -> None:
    model: Any = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    (folder / "unet" / FILES["unet"]).unlink()
    model.save_pretrained(folder / "unet", max_shard_size="200KB")
    change_tensors(
        folder,
        "vae",
        lambda t: t.update({n.replace(".to_q.", ".query."): t.pop(n) for n in list(t)}),
    )
    change_json(folder / "scheduler" / "scheduler_config.json", lambda c: c.pop("prediction_type"))
    export(folder, out / "bundle", golden=False)
    for component in FILES:
        name = Path("weights") / f"{component}.safetensors"
        assert (out / "bundle" / name).read_bytes() == (bundle("heads") / name).read_bytes()
    manifest = manifest_of(out / "bundle")
    assert manifest["prediction_type"] == "epsilon"
    assert sorted(manifest["inferred"]) == [
        "prediction_type: epsilon, the default of a scheduler that states none",
        "text_encoder: text encoder without the prefix 'text_model.'",
        "vae: VAE with old attention names",
    ]


@each_configuration
def test_the_manifest_has_the_checkpoints_numbers(
    bundle: Bundles, checkpoint: Bundles, configuration: str
) -> None:
    manifest = manifest_of(bundle(configuration))
    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        checkpoint(configuration), safety_checker=None, low_cpu_mem_usage=False
    )
    assert manifest["source"] == configuration
    assert manifest["dtype"] == "float32"
    assert manifest["latent_channels"] == pipeline.vae.config.latent_channels
    assert manifest["vae_factor"] == pipeline.vae_scale_factor
    assert manifest["vae_scaling"] == pipeline.vae.config.scaling_factor
    assert manifest["vae_shift"] == 0
    assert manifest["sample_size"] == [pipeline.unet.config.sample_size] * 2
    assert manifest["prediction_type"] == pipeline.scheduler.config.prediction_type


def fingerprints(bundle: Path) -> dict[str, str]:
    return {name: c["fingerprint"] for name, c in manifest_of(bundle)["components"].items()}


# Fields that change no shape: the tensors fit, and the picture would be another.
DECISIVE: dict[str, tuple[str, str, Any]] = {
    "heads": ("unet", "attention_head_dim", 2),
    "norm_eps": ("unet", "norm_eps", 1e-6),
    "norm_num_groups": ("unet", "norm_num_groups", 4),
    "freq_shift": ("unet", "freq_shift", 1),
    "act_fn": ("unet", "act_fn", "gelu"),
    "hidden_act": ("text_encoder", "hidden_act", "gelu"),
    "text heads": ("text_encoder", "num_attention_heads", 2),
    "vae groups": ("vae", "norm_num_groups", 4),
}


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("field", DECISIVE)
def test_a_field_that_changes_values_but_no_shape_changes_the_fingerprint(
    bundle: Bundles, folder: Path, out: Path, field: str
) -> None:
    component, key, value = DECISIVE[field]
    change_json(folder / component / "config.json", lambda c: c.update({key: value}))
    export(folder, out / "bundle", golden=False)
    before, after = fingerprints(bundle("heads")), fingerprints(out / "bundle")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {c for c in COMPONENTS if FOLDERS[c] == component}


@pytest.mark.usefixtures("traced")
def test_fields_that_decide_nothing_leave_the_fingerprint(
    bundle: Bundles, folder: Path, out: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        config.update(_diffusers_version="0.0.1", _name_or_path="elsewhere", sample_size=16)
        del config["freq_shift"]  # whose default is what it was

    change_json(folder / "unet" / "config.json", change)
    export(folder, out / "bundle", golden=False)
    assert fingerprints(out / "bundle") == fingerprints(bundle("heads"))


@pytest.mark.usefixtures("traced")
def test_every_stage_reports_from_nothing_to_all(folder: Path, out: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        told.setdefault(stage, []).append((done, total))

    export(folder, out / "bundle", progress=progress)
    assert list(told) == ["check", "weights", "graphs", "goldens", "manifest"]
    for reports in told.values():
        done = [d for d, _ in reports]
        assert done == sorted(done)
        assert len({total for _, total in reports}) == 1
        assert (done[0], done[-1]) == (0, reports[0][1])
    tensors = [t for component in FILES for t in stored(folder, component).values()]
    assert told["weights"][-1][1] == 4 * sum(t.numel() for t in tensors)


@pytest.mark.usefixtures("traced")
def test_position_ids_are_left_out(folder: Path, out: Path) -> None:
    ids = torch.arange(77)[None]
    change_tensors(folder, "text_encoder", lambda t: t.update({"embeddings.position_ids": ids}))
    export(folder, out / "bundle", golden=False)
    weights = out / "bundle" / "weights" / "text_encoder.safetensors"
    found = safetensors.torch.load_file(weights)
    assert "text_model.embeddings.position_ids" not in found
    assert len(found) == len(stored(folder, "text_encoder")) - 1


# Refusals.


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing fails the test: what is wrong is to be found before it, which takes minutes."""

    def refuse(*_: object) -> None:
        pytest.fail("began to trace")

    monkeypatch.setattr(trace, "trace", refuse)


def tensors(component: str, change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    return lambda folder: change_tensors(folder, component, change)


def config(path: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / path, lambda c: c.update(changes))


def set_value(name: str, value: float, dtype: torch.dtype = torch.float32) -> Any:
    def change(of: Tensors) -> None:
        of[name] = of[name].to(dtype)
        of[name].view(-1)[-1] = value

    return change


def unet(**changes: Any) -> Callable[[Path], None]:
    """A U-Net of another configuration, its tensors with it, written by diffusers."""

    def change(folder: Path) -> None:
        model = UNet2DConditionModel(**{**CONFIGURATIONS["heads"]["unet"], **changes})
        model.save_pretrained(folder / "unet")

    return change


def remove(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        if (folder / path).is_dir():
            shutil.rmtree(folder / path)
        else:
            (folder / path).unlink()

    return change


def write(path: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_text(content)


def truncate(folder: Path) -> None:
    path = folder / "vae" / FILES["vae"]
    path.write_bytes(path.read_bytes()[:-100])


def pickle(folder: Path) -> None:
    tensors = stored(folder, "unet")
    (folder / "unet" / FILES["unet"]).unlink()
    torch.save(tensors, folder / "unet" / "diffusion_pytorch_model.bin")


CONV = "conv_in.weight"
FC1 = ("encoder.layers.0.mlp.fc1.weight",)
NORM = "encoder.layers.1.layer_norm2.bias"
DECODER = "decoder.conv_out.bias"
FINITE = "holds a value that is not finite"
BIG = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 48,
}

REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing tensor": (
        tensors("unet", lambda t: t.pop(CONV)),
        "it/unet: tensor 'conv_in.weight' is missing",
    ),
    "missing tensors": (
        tensors("vae", lambda t: [t.pop(DECODER), t.pop("decoder.conv_out.weight")]),
        "it/vae: tensor 'decoder.conv_out.bias' is missing (and 1 more)",
    ),
    "an unknown tensor": (
        tensors("unet", lambda t: t.update({"lora.up": torch.zeros(1)})),
        "it/unet: tensor 'lora.up' is unknown",
    ),
    "a wrong shape": (
        tensors("unet", lambda t: t.update({CONV: torch.zeros(16, 4, 1, 1)})),
        "it/unet: tensor 'conv_in.weight' is (16, 4, 1, 1), expected (16, 4, 3, 3)",
    ),
    "a transposed shape": (
        tensors("text_encoder", lambda t: t.update({n: t[n].T.contiguous() for n in FC1})),
        "tensor 'text_model.encoder.layers.0.mlp.fc1.weight' is (32, 64), expected (64, 32)",
    ),
    "a NaN": (
        tensors("unet", set_value(CONV, float("nan"))),
        f"it/unet: tensor 'conv_in.weight' {FINITE}",
    ),
    "an infinity": (
        tensors("vae", set_value(DECODER, float("inf"))),
        f"it/vae: tensor 'decoder.conv_out.bias' {FINITE}",
    ),
    "a negative infinity": (
        tensors("text_encoder", set_value(NORM, float("-inf"))),
        f"it/text_encoder: tensor 'text_model.{NORM}' {FINITE}",
    ),
    "a NaN in float16": (
        tensors("unet", set_value(CONV, float("nan"), torch.float16)),
        f"tensor 'conv_in.weight' {FINITE}",
    ),
    "a NaN in bfloat16": (
        tensors("unet", set_value(CONV, float("nan"), torch.bfloat16)),
        f"tensor 'conv_in.weight' {FINITE}",
    ),
    "an infinity in bfloat16": (
        tensors("unet", set_value(CONV, float("inf"), torch.bfloat16)),
        f"tensor 'conv_in.weight' {FINITE}",
    ),
    "a value beyond float32": (
        tensors("unet", set_value(CONV, 1e39, torch.float64)),
        "tensor 'conv_in.weight' does not fit into float32",
    ),
    "an integer tensor": (
        tensors("unet", lambda t: t.update({CONV: t[CONV].to(torch.int32)})),
        "it/unet: tensor 'conv_in.weight' is int32, expected a float",
    ),
    "a boolean tensor": (
        tensors("vae", lambda t: t.update({DECODER: t[DECODER] > 0})),
        "it/vae: tensor 'decoder.conv_out.bias' is bool, expected a float",
    ),
    "another pipeline": (
        config("model_index.json", _class_name="StableDiffusionXLPipeline"),
        "model_index.json: architecture 'StableDiffusionXLPipeline' is not supported; "
        "StableDiffusionPipeline is",
    ),
    "no pipeline": (
        write("model_index.json", "{}"),
        "it/model_index.json: architecture None is not supported",
    ),
    "another U-Net": (
        config("unet/config.json", _class_name="UNet3DConditionModel"),
        "unet/config.json: architecture 'UNet3DConditionModel' is not supported",
    ),
    "another VAE": (
        config("vae/config.json", _class_name="AutoencoderTiny"),
        "vae/config.json: architecture 'AutoencoderTiny' is not supported; AutoencoderKL is",
    ),
    "another text encoder": (
        config("text_encoder/config.json", architectures=["T5EncoderModel"]),
        "text_encoder/config.json: architecture 'T5EncoderModel' is not supported",
    ),
    "architectures that are no list": (
        config("text_encoder/config.json", architectures=7),
        "text_encoder/config.json: architecture 7 is not supported",
    ),
    "a U-Net for inpainting": (
        unet(in_channels=9),
        "it/unet: U-Net takes 9 channels, the VAE has 4: only text to image is supported",
    ),
    "a U-Net that predicts variances": (unet(out_channels=8), "it/unet: out_channels is 8"),
    "a U-Net with more conditions": (unet(**BIG), "it/unet: addition_embed_type is 'text_time'"),
    "only the config of one": (
        config("unet/config.json", **BIG),
        "it/unet: addition_embed_type is 'text_time'",
    ),
    "a distilled U-Net": (unet(time_cond_proj_dim=16), "it/unet: time_cond_proj_dim is 16"),
    "a U-Net with classes": (unet(num_class_embeds=10), "it/unet: num_class_embeds is 10"),
    "a U-Net for another width of text": (
        unet(cross_attention_dim=48),
        "it/unet: cross_attention_dim 48 but text of width 32",
    ),
    "an unknown block": (
        config("unet/config.json", down_block_types=["DownBlock2D", "SidewaysBlock2D"]),
        "it/unet/config.json: is not a config of UNet2DConditionModel: ValueError: Sideways",
    ),
    "blocks of another number": (
        config("unet/config.json", block_out_channels=[16]),
        "it/unet/config.json: is not a config of UNet2DConditionModel: ",
    ),
    "groups that do not divide": (
        config("vae/config.json", norm_num_groups=7),
        "it/vae/config.json: is not a config of AutoencoderKL: ",
    ),
    "heads that do not divide": (
        config("text_encoder/config.json", num_attention_heads=5),
        "it/text_encoder/config.json: is not a config of CLIPTextModel: ",
    ),
    "an unknown activation": (
        config("text_encoder/config.json", hidden_act="wobble"),
        "it/text_encoder/config.json: is not a config of CLIPTextModel: KeyError: 'wobble'",
    ),
    "malformed config": (write("unet/config.json", "{"), "it/unet/config.json: is not readable"),
    "no tokenizer": (remove("tokenizer"), "it/tokenizer: has neither tokenizer.json nor vocab"),
    "no tokenizer.json": (remove("tokenizer/tokenizer.json"), "it/tokenizer: has neither tok"),
    "malformed tokenizer": (
        write("tokenizer/tokenizer.json", '{"version": "1.0"}'),
        "it/tokenizer: unreadable: ",
    ),
    "no scheduler": (remove("scheduler"), "it/scheduler/scheduler_config.json: is missing"),
    "malformed scheduler": (
        write("scheduler/scheduler_config.json", "[]"),
        "it/scheduler/scheduler_config.json: is not a JSON object",
    ),
    "no VAE": (remove("vae"), "it/vae/config.json: is missing"),
    "no weights": (
        remove("unet/diffusion_pytorch_model.safetensors"),
        "it/unet/diffusion_pytorch_model.safetensors: is missing",
    ),
    "no model_index.json": (remove("model_index.json"), "it: is not a diffusers folder"),
    "no checkpoint": (lambda folder: shutil.rmtree(folder), "it: no such checkpoint folder"),
    "truncated weights": (
        truncate,
        "it/vae/diffusion_pytorch_model.safetensors: is truncated: tensors end at",
    ),
    "pickled weights": (
        pickle,
        "it/unet/diffusion_pytorch_model.bin: a pickled file runs code when it is loaded",
    ),
}


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("damage", REFUSED)
def test_a_checkpoint_that_cannot_be_exported_is_refused_by_name_and_leaves_nothing(
    folder: Path, out: Path, damage: str
) -> None:
    change, problem = REFUSED[damage]
    change(folder)
    with pytest.raises(CheckpointError) as caught:
        export(folder, out / "bundle")
    assert problem in str(caught.value)
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("untraced")
def test_a_value_beyond_float16_is_refused_in_float16(folder: Path, out: Path) -> None:
    change_tensors(folder, "unet", set_value(CONV, 65_520.0))  # the first that rounds to infinity
    with pytest.raises(CheckpointError, match=r"'conv_in\.weight' does not fit into float16"):
        export(folder, out / "bundle", dtype="fp16")
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("untraced")
def test_a_refused_checkpoint_leaves_the_bundle_it_was_to_replace(
    bundle: Bundles, folder: Path, out: Path
) -> None:
    shutil.copytree(bundle("heads"), out / "bundle")
    change_tensors(folder, "unet", set_value(CONV, float("nan")))
    with pytest.raises(CheckpointError, match=FINITE):
        export(folder, out / "bundle", force=True)
    assert [p.name for p in out.iterdir()] == ["bundle"]
    Bundle.open(out / "bundle", verify=True)


@pytest.mark.usefixtures("untraced")
def test_a_destination_that_exists_is_refused_before_the_checkpoint_is_read(out: Path) -> None:
    with pytest.raises(InputError, match="destination: expected a path that does not exist"):
        export("no-such-checkpoint", out)


@pytest.mark.usefixtures("untraced")
def test_force_does_not_replace_a_folder_of_something_else(folder: Path, out: Path) -> None:
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="destination: expected a bundle or nothing, got"):
        export(folder, out, force=True)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("dtype", ["int8", "float32", ""])
def test_an_unknown_dtype_is_refused_with_the_known(folder: Path, out: Path, dtype: str) -> None:
    with pytest.raises(InputError, match=f"dtype: expected one of fp32, fp16, got '{dtype}'"):
        export(folder, out / "bundle", dtype=dtype)
    assert list(out.iterdir()) == []


def test_an_unknown_random_checkpoint_is_refused_with_the_known(out: Path) -> None:
    with pytest.raises(InputError, match="checkpoint: expected one of random:sd15, got 'random:x'"):
        export("random:x", out / "bundle")
    assert list(out.iterdir()) == []
