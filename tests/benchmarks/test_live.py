"""What PyTorch computes now: it equals diffusers, and engines are compared with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.benchmarks.planted import planted
from tests.export.golden_run import pipeline_of
from tests.export.pytorch import SAME, relative

from latentrt.benchmarks.numerics.compare import compare
from latentrt.benchmarks.numerics.reference import Reference, ReferenceRequest
from latentrt.benchmarks.numerics.torch_model import TorchModel
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.runtime import Pipeline, Size

REQUEST = ReferenceRequest("a small green star", seed=7, steps=3, size=Size(72, 64))


def silent() -> None:
    """Reports no progress."""


# Its constructor says so when it forces a value.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("trusted", ["checkpoint", "bundle"])
@pytest.mark.parametrize("configuration", ["heads", "xl"])
def test_the_reference_run_equals_the_diffusers_pipeline(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    configuration: str,
    trusted: str,
) -> None:
    opened = Bundle.open(bundle(configuration))
    given = str(checkpoint(configuration)) if trusted == "checkpoint" else None
    found = TorchModel.of(opened, given).evaluate(opened, REQUEST, silent).tensors
    pipeline = pipeline_of(checkpoint(configuration), configuration)
    steps: list[torch.Tensor] = []

    def keep(_pipe: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        steps.append(kwargs["latents"].clone())
        return {}

    image = pipeline(
        REQUEST.prompt,
        width=72,
        height=64,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
        callback_on_step_end=keep,
    ).images
    assert len(steps) == 3
    for i, expected in enumerate(steps):
        assert relative(found[f"run/steps/{i}/latents"], expected) < SAME
    # diffusers rounds nothing, but clips and moves its pictures to [0, 1].
    ours = np.clip(found["run/images"] / 2 + 0.5, 0, 1)
    assert relative(ours, image) < 5e-6


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree_with_pytorch_for_several_prompts_and_seeds(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], engine: str
) -> None:
    opened = Bundle.open(bundle("heads"))
    original = TorchModel.of(opened, str(checkpoint("heads")))
    asked = [(prompt, seed) for prompt in ("a star", "a red ring") for seed in (0, 1)]
    requests = [ReferenceRequest(prompt, seed=seed, steps=2) for prompt, seed in asked]
    answers = [original.evaluate(opened, request, silent) for request in requests]
    with Pipeline(opened, engine, guarded=False) as pipeline:
        comparison = compare(pipeline, answers)
    assert comparison.passed, comparison
    drawn = [(run.prompt, run.noise) for run in comparison.runs]
    assert drawn == [(prompt, f"seed {seed}") for prompt, seed in asked]
    assert [len(run.steps) for run in comparison.runs] == [2] * 4
    pictures = {run.reference.tobytes() for run in comparison.runs}
    assert len(pictures) == 4
    assert comparison.picture_psnr == min(run.psnr for run in comparison.runs) > 100


def test_the_goldens_own_request_gives_the_goldens(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    opened = Bundle.open(bundle("xl"))
    original = TorchModel.of(opened, str(checkpoint("xl")))
    found = original.evaluate(opened, ReferenceRequest(seed=20_260_101), silent)
    golden = Reference.stored(opened)
    assert found.prompt == golden.prompt
    assert set(found.tensors) == set(golden.tensors)
    for name, expected in golden.tensors.items():
        if expected.dtype == np.int64:
            assert np.array_equal(found.tensors[name], expected)
        else:
            assert relative(found.tensors[name], expected) < SAME, name


def test_a_wrong_weight_shows_against_the_checkpoint_and_not_against_itself(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    spoiled = planted(bundle("lists"), tmp_path / "spoiled", "unet", "conv_out.weight")
    for given, passed in ((None, True), (str(checkpoint("lists")), False)):
        original = TorchModel.of(spoiled, given)
        found = original.evaluate(spoiled, ReferenceRequest(steps=2), silent)
        with Pipeline(spoiled, "onnxruntime", guarded=False) as pipeline:
            assert compare(pipeline, [found]).passed is passed


@pytest.mark.parametrize("size", [Size(60, 64), Size(8, 64)])
def test_a_size_that_the_vae_or_ssim_cannot_take_is_refused(
    bundle: Callable[[str], Path], size: Size
) -> None:
    opened = Bundle.open(bundle("heads"))
    with pytest.raises(InputError, match="size: expected multiples of 8, at least 16"):
        TorchModel.of(opened).evaluate(opened, ReferenceRequest(size=size), silent)


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(InputError, match="steps: expected an integer from 1 to 1000"):
        ReferenceRequest(steps=steps)
