"""Hires fix against diffusers: a picture, made larger, and image to image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from tests.cli.outcome import Run
from tests.runtime.task_reference import PROMPT, SEED, check_against, decoded, task_reference

from latentrt.bundle.errors import FileError, InputError
from latentrt.runtime import HiresFix, Pipeline, Request, Sampling, Size
from latentrt.runtime.resampling import resample
from latentrt.runtime.upscaler import Upscaler

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

Checkpoint = Callable[[str], Path]
Pipelines = Callable[[str], Pipeline]
MODES = {"latent": "bilinear", "latent_bicubic": "bicubic", "latent_nearest": "nearest"}


def upscaler_file(folder: Path, factor: int = 3) -> Path:
    """An ONNX file that repeats each pixel, as an upscaler that learnt nothing."""
    shape = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("Resize", ["image", "", "scales"], ["larger"], mode="nearest")],
        "upscaler",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("larger", TensorProto.FLOAT, ["n", 3, "H", "W"])],
        [helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, factor, factor])],
    )
    opset = [helper.make_opsetid("", 18)]
    path = folder / "repeat.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def reference_latents(
    folder: Path, sampler: str, steps: tuple[int, int], strength: float, upscale: Any
) -> tuple[Any, torch.Tensor]:
    """diffusers' text to image, `upscale` of its latents or picture, its image to image."""
    first = task_reference(folder, "", sampler)
    options = {"prompt": PROMPT, "guidance_scale": 7.5, "output_type": "latent"}
    small = first(
        **options,
        height=64,
        width=64,
        num_inference_steps=steps[0],
        generator=torch.Generator().manual_seed(SEED),
    ).images
    second = task_reference(folder, "Img2Img", sampler)
    return second, second(
        **options,
        image=upscale(first, small),
        num_inference_steps=steps[1],
        strength=strength,
        generator=torch.Generator().manual_seed(SEED),
    ).images


@pytest.mark.parametrize(
    ("configuration", "sampler", "mode", "strength"),
    [
        ("heads", "euler", "latent", 0.5),
        ("heads", "euler_ancestral", "latent_bicubic", 0.75),
        ("heads", "dpmpp_2m", "latent_nearest", 0.5),
        ("lists", "euler", "latent", 1.0),
    ],
)
def test_a_larger_latent_is_drawn_over_as_in_diffusers(
    pipelines: Pipelines,
    checkpoint: Checkpoint,
    configuration: str,
    sampler: str,
    mode: str,
    strength: float,
) -> None:
    def upscale(_: Any, small: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(small, size=(12, 12), mode=MODES[mode])

    task = HiresFix(1.5, strength, steps=10, upscaler=mode)
    request = Request(
        PROMPT, seed=SEED, size=Size(64, 64), task=task, sampling=Sampling(sampler, steps=8)
    )
    found = pipelines(configuration)(request)
    assert found.images[0].size == (96, 96)
    folder = checkpoint(configuration)
    reference, latents = reference_latents(folder, sampler, (8, 10), strength, upscale)
    check_against(reference, found, latents)


@pytest.mark.parametrize("upscaler", ["lanczos", "network"])
def test_a_larger_picture_is_drawn_over_as_in_diffusers(
    pipelines: Pipelines, checkpoint: Checkpoint, tmp_path: Path, upscaler: str
) -> None:
    def upscale(pipeline: Any, small: torch.Tensor) -> Image.Image:
        pixels = decoded(pipeline, small).astype(np.uint8)
        if upscaler == "network":
            pixels = pixels.repeat(3, axis=0).repeat(3, axis=1)
        return Image.fromarray(pixels).resize((128, 128), Image.Resampling.LANCZOS)

    way = upscaler_file(tmp_path) if upscaler == "network" else upscaler
    task = HiresFix(2, 0.5, upscaler=way)
    request = Request(
        PROMPT, seed=SEED, size=Size(64, 64), task=task, sampling=Sampling("euler", steps=8)
    )
    found = pipelines("heads")(request)
    reference, latents = reference_latents(checkpoint("heads"), "euler", (8, 8), 0.5, upscale)
    check_against(reference, found, latents)


def test_a_batcher_draws_what_a_run_alone_draws(pipelines: Pipelines) -> None:
    pipeline = pipelines("heads")
    tasks = (HiresFix(1.5, 0.5), HiresFix(1.5, 0.5, upscaler="lanczos"))
    requests = [
        Request("a", seed=7, size=Size(64, 64), task=task, sampling=Sampling("euler", steps=3))
        for task in tasks
    ]
    with pipeline.batcher(batch_sizes=(4,)) as batcher:
        alone = [batcher.submit(each).result() for each in requests]
        together = [run.result() for run in [batcher.submit(each) for each in requests * 2]]
    for index, result in enumerate(together):
        assert result.images[0].tobytes() == alone[index % 2].images[0].tobytes()
    direct = pipeline(requests[0])
    np.testing.assert_allclose(direct.latents, alone[0].latents, rtol=0, atol=1e-3)


sizes = st.integers(1, 40)


@given(sizes, sizes, sizes, sizes, st.sampled_from(sorted(MODES.values())), st.integers(0))
def test_latents_are_resampled_as_torch_does(
    h: int, w: int, height: int, width: int, mode: Any, seed: int
) -> None:
    array = np.random.default_rng(seed).standard_normal((2, h, w), dtype=np.float32)
    tensor = torch.from_numpy(array)[None].double()
    expected = torch.nn.functional.interpolate(tensor, size=(height, width), mode=mode)[0].numpy()
    # Rounded once, from float64.
    np.testing.assert_allclose(resample(array, height, width, mode), expected, 2e-6, 2e-6)


def test_the_larger_size_is_rounded_to_what_the_vae_divides() -> None:
    assert HiresFix(1.7).output(Size(64, 72), 8) == Size(112, 120)
    assert HiresFix(1.3).output(Size(64, 72), 8) == Size(80, 96)


@pytest.mark.parametrize(("counting", "steps"), [("diffusers", 5), ("webui", 6), ("exact", 10)])
def test_the_second_run_counts_its_steps_as_asked(
    pipelines: Pipelines, counting: Any, steps: int
) -> None:
    task = HiresFix(1.5, 0.5, counting, steps=10)
    request = Request("a", size=Size(64, 64), task=task, sampling=Sampling("euler", steps=8))
    legs = pipelines("heads").plan(request).legs
    assert [len(leg.schedule.evaluations) for leg in legs] == [8, steps]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": 0.5}, "hires: expected a number from 1 to 8"),
        ({"scale": 8.5}, "hires: expected a number from 1 to 8"),
        ({"strength": 0}, "strength: expected a number above 0"),
        ({"steps": 0}, "hires_steps: expected an integer of at least 1"),
        ({"upscaler": "esrgan"}, "upscaler: expected latent, latent_bicubic, latent_nearest"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HiresFix(**values)


def test_a_file_that_is_no_upscaler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        Upscaler.open(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(FileError, match="is not an ONNX file of an upscaler"):
        Upscaler.open(tmp_path / "text.onnx")
    grey = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 1, "h", "w"])
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 1, "h", "w"])
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [grey], [out])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "g.onnx")
    with pytest.raises(FileError, match=r"an upscaler takes float32 \[n, 3, h, w\]"):
        Upscaler.open(tmp_path / "g.onnx")


def test_the_command_draws_large_and_again(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    out, again = tmp_path / "a.png", tmp_path / "b.png"
    engine = ["--engine", "onnxruntime"]
    options = ["--hires", 1.5, "--hires-strength", 0.5, "--hires-steps", 4]
    ordered = ["generate", bundle("heads"), "a", "-o", out, "--steps", 3, "--seed", 1]
    done = run(*ordered, *options, *engine)
    assert done.status == 0, done.err
    with Image.open(out) as drawn:
        assert drawn.size == (96, 96)
        stored = json.loads(drawn.info["latentrt"])
        assert stored["size"] == "64x64"
    assert run("generate", bundle("heads"), "--from", out, "-o", again, *engine).status == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))
    done = run("generate", bundle("heads"), "a", "-o", out, "--hires-steps", 4)
    assert "hires-steps: expected none without --hires" in done.err
