"""Both CPU backends: every component against PyTorch, at shapes of all kinds, and wrong calls."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextModel

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, Closed, InputError, Unavailable
from latentrt.bundle.golden import Difference
from latentrt.engines import registry as backends
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.options import described, parsed
from latentrt.engines.registry import Backend, Compiler, backend, choose

BACKENDS = ("onnxruntime", "openvino")
# The project's promise for fp32 (relative, an evaluation); 1e-6 to 3e-6 is what is measured.
TOLERANCES = {"text_encoder": 5e-5, "unet": 1e-5, "vae_decoder": 5e-5, "vae_encoder": 5e-5}
SIZES = {
    "text_encoder": [{"batch": 1, "sequence": 77}, {"batch": 3, "sequence": 5}],
    "unet": [
        {"batch": 1, "height": 8, "width": 8, "sequence": 77},
        {"batch": 2, "height": 9, "width": 17, "sequence": 154},
        {"batch": 3, "height": 1, "width": 5, "sequence": 1},
    ],
    "vae_decoder": [
        {"batch": 1, "height": 8, "width": 8},
        {"batch": 2, "height": 9, "width": 17},
    ],
    "vae_encoder": [
        {"batch": 1, "image_height": 64, "image_width": 64},
        {"batch": 2, "image_height": 72, "image_width": 136},
    ],
}


LEAN: dict[str, dict[str, Any]] = {
    "openvino": {"threads": 1},
    "onnxruntime": {"threads": 1, "arena": False},
}


def build(path: Path, component: str, sizes: dict[str, int], name: str, **options: Any) -> Engine:
    bundle = Bundle.open(path)
    record = bundle.manifest.components[component]
    blueprint = Blueprint(
        component=component,
        graph=bundle.graph(component),
        weights=bundle.weights(component),
        inputs=record.inputs,
        outputs=record.outputs,
        sizes=sizes,
    )
    return backend(name).compile(blueprint, backend(name).options(**options))


def random_inputs(engine: Engine, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    inputs = {
        s.name: rng.standard_normal(s.shape({}), dtype=np.float32).astype(s.dtype)
        for s in engine.inputs
    }
    if "timestep" in inputs:
        inputs["timestep"] = rng.uniform(0, 999, inputs["timestep"].shape).astype(np.float32)
    return inputs


def reference(
    checkpoint: Path, component: str, inputs: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What diffusers and transformers say."""
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.inference_mode():
        if component == "unet":
            unet: Any = UNet2DConditionModel.from_pretrained(checkpoint / "unet")
            return {"model_output": unet(**tensors).sample.numpy()}
        if component.startswith("vae"):
            vae: Any = AutoencoderKL.from_pretrained(checkpoint / "vae")
            if component == "vae_decoder":
                return {"images": vae.decode(tensors["latents"]).sample.numpy()}
            return {"moments": vae.encode(tensors["images"]).latent_dist.parameters.numpy()}
        text: Any = CLIPTextModel.from_pretrained(checkpoint / "text_encoder").eval()
        # transformers' model takes ids alone, so its token table is made to be our embeddings.
        embeds = tensors["inputs_embeds"]
        count = embeds.shape[0] * embeds.shape[1]
        text.embeddings.token_embedding.weight.data = embeds.reshape(count, -1)
        ids = torch.arange(count).reshape(embeds.shape[:2])
        output = text(ids, output_hidden_states=True)
        states = {f"hidden_states.{i}": h.numpy() for i, h in enumerate(output.hidden_states)}
        return {"last_hidden_state": output.last_hidden_state.numpy(), **states}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("component", sorted(SIZES))
@pytest.mark.parametrize("configuration", ["heads", "lists"])
def test_every_component_matches_pytorch_at_every_shape(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    configuration: str,
    component: str,
    name: str,
) -> None:
    for sizes in SIZES[component]:
        engine = build(bundle(configuration), component, sizes, name)
        inputs = random_inputs(engine)
        outputs = engine(inputs)
        expected = reference(checkpoint(configuration), component, inputs)
        assert set(outputs) == {s.name for s in engine.outputs}
        for spec in engine.outputs:
            assert outputs[spec.name].shape == spec.dims
            found = Difference.between(outputs[spec.name], expected[spec.name])
            assert found.relative < TOLERANCES[component], (sizes, spec.name, found)
        engine.close()


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request: pytest.FixtureRequest, bundle: Callable[[str], Path]) -> Engine:
    return build(bundle("heads"), "vae_decoder", SIZES["vae_decoder"][0], request.param)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda a: {"latents": a[:, :3]},
            r"vae_decoder input 'latents': expected \(1, 4, 8, 8\) float32, got \(1, 3, 8, 8\)",
        ),
        (
            lambda a: {"latents": a.astype(np.float16)},
            r"vae_decoder input 'latents': expected .* float32, got .* float16",
        ),
        (lambda a: {}, r"vae_decoder input 'latents': expected .*, got nothing"),
        (lambda a: {"latents": a, "x": a}, r"vae_decoder input 'x': expected one of latents"),
    ],
)
def test_a_wrong_call_names_the_input(engine: Engine, spoil: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(spoil(np.zeros((1, 4, 8, 8), np.float32)))


def test_arrays_that_are_not_contiguous_are_read_right(engine: Engine) -> None:
    latents = random_inputs(engine)["latents"]
    strided = np.ascontiguousarray(latents[..., ::-1])[..., ::-1]
    assert not strided.flags.c_contiguous
    expected = engine({"latents": latents})["images"]
    assert np.array_equal(engine({"latents": strided})["images"], expected)


def test_outputs_belong_to_the_caller(engine: Engine) -> None:
    first = engine(random_inputs(engine, 0))["images"]
    kept = first.copy()
    engine(random_inputs(engine, 1))
    assert np.array_equal(first, kept)
    first[:] = 0  # writable


def test_calls_from_eight_threads_do_not_mix(engine: Engine) -> None:
    expected = [engine(random_inputs(engine, s))["images"] for s in range(8)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(5):
            if not np.array_equal(engine(random_inputs(engine, seed))["images"], expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", BACKENDS)
def test_a_closed_engine_says_so(bundle: Callable[[str], Path], name: str) -> None:
    engine = build(bundle("heads"), "vae_decoder", SIZES["vae_decoder"][0], name)
    inputs = random_inputs(engine)
    engine.close()
    with pytest.raises(Closed, match="closed"):
        engine(inputs)


@pytest.mark.parametrize("name", BACKENDS)
def test_threads_and_arena_change_no_result(bundle: Callable[[str], Path], name: str) -> None:
    sizes = SIZES["unet"][0]
    engine = build(bundle("heads"), "unet", sizes, name)
    lean = build(bundle("heads"), "unet", sizes, name, **LEAN[name])
    inputs = random_inputs(engine)
    found = Difference.between(lean(inputs)["model_output"], engine(inputs)["model_output"])
    # Other thread counts split sums in other places.
    assert found.relative < 1e-6


@pytest.mark.parametrize("name", BACKENDS)
def test_a_graph_that_cannot_be_compiled_is_named(
    bundle: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    opened = Bundle.open(bundle("heads"))
    record = opened.manifest.components["unet"]
    broken = tmp_path / "unet.onnx"
    broken.write_bytes(opened.graph("unet").read_bytes()[:1000])
    weights = opened.weights("unet")
    blueprint = Blueprint("unet", broken, weights, record.inputs, record.outputs, SIZES["unet"][0])
    with pytest.raises(BuildFailed, match=r"^unet: "):
        backend(name).compile(blueprint)


def test_unknown_backends_and_precisions_are_named() -> None:
    with pytest.raises(InputError, match=r"engine: expected one of auto, onnxruntime, .*openvino"):
        choose("cuda", "float32")
    with pytest.raises(InputError, match=r"precision: expected one of fp32 for onnxruntime"):
        choose("onnxruntime", "float32", "bf16")
    with pytest.raises(InputError, match="fp8"):
        choose("auto", "float32", "fp8")


@pytest.mark.parametrize(
    ("name", "option", "known"),
    [
        ("onnxruntime", "streams", "threads, arena"),
        ("openvino", "arena", "threads, streams"),
        ("auto", "level", "threads, streams; engine onnxruntime has no option 'level'; it has"),
    ],
)
def test_an_unknown_option_of_an_engine_is_an_error_that_lists_its_options(
    name: str, option: str, known: str
) -> None:
    engine = "openvino" if name == "auto" else name
    problem = f"engine {engine} has no option '{option}'; it has {known}"
    with pytest.raises(InputError, match=re.escape(problem)):
        choose(name, "float32", options={option: 1})


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("onnxruntime", "threads", 0),
        ("onnxruntime", "threads", "four"),
        ("onnxruntime", "arena", 1),
        ("openvino", "streams", 2.5),
        ("tensorrt", "level", 6),
        ("tensorrt", "stripped", "maybe"),
        ("tensorrt", "target", 89),
    ],
)
def test_a_wrong_value_of_an_option_names_the_option(name: str, option: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{option}: expected .*, got {value!r}$"):
        parsed(name, backend(name).options, {option: value})


def test_every_option_of_every_backend_has_one_line_that_says_what_it_does() -> None:
    for name, each in backends.BACKENDS.items():
        for option, line in described(each.options).items():
            assert line.endswith("."), (name, option)
            assert len(line) <= 90, (name, option)


def test_auto_takes_the_first_backend_that_has_the_options() -> None:
    assert choose("auto", "float32", options={"arena": False}).name == "onnxruntime"


@pytest.mark.usefixtures("bf16_offered")
def test_auto_takes_openvino_before_onnxruntime_and_each_computes_in_its_own_precision() -> None:
    assert choose("auto", "float32").name == "openvino"
    assert choose("auto", "float32", "bf16").name == "openvino"
    for name in BACKENDS:
        assert choose(name, "float32").precision == "fp32"


def test_auto_asks_no_unverified_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noting(each: Backend) -> Backend:
        def find() -> Compiler:
            asked.append(each.name)
            return each.find()

        return replace(each, find=find)

    noted = {name: noting(each) for name, each in backends.BACKENDS.items()}
    monkeypatch.setattr(backends, "BACKENDS", noted)
    # Arenas are ONNX Runtime's alone, so that every one before it is looked at.
    assert choose("auto", "float32", options={"arena": False}).name == "onnxruntime"
    assert asked == ["openvino", "onnxruntime"]


def test_of_every_backend_the_device_is_known_and_those_here_are_of_a_cpu() -> None:
    kinds = {name: each.device for name, each in backends.BACKENDS.items()}
    found = {name for name in kinds if backend(name).status().devices == ("CPU",)}
    assert found == {name for name, kind in kinds.items() if kind == "cpu"}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_missing_package_is_a_status_and_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    status = backend(name).status()
    assert not status.usable
    assert status.remedy == f"pip install 'latentrt[{name}]'"
    with pytest.raises(Unavailable, match=rf"pip install 'latentrt\[{name}\]'"):
        choose(name, "float32")
