"""Whole runs against diffusers' own pipeline, on the same checkpoint, noise and scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from latentrt.bundle.golden import Difference, psnr
from latentrt.runtime import Guidance, Pipeline, Request, Sampling, Size

CLASSES = {
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
}
# The constructor says so when it forces a value.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
SEED = 11
PROMPT, NEGATIVE = "a large red circle on a blue background", "a small star"
# Both sides compute in fp32 and differ by rounding (1e-6 an evaluation), which guidance multiplies
# by up to its scale and ten steps add up.
STEP_TOLERANCE = 1e-4
PICTURE_PSNR = 55.0


def reference_pipeline(checkpoint: Path, sampler: str) -> Any:
    """diffusers' pipeline with the sampler's class made from the checkpoint's scheduler config.

    The scheduler is handed to the constructor, which forces `steps_offset` and `clip_sample` on it.
    """
    scheduler: Any = getattr(diffusers, CLASSES[sampler]).from_pretrained(
        checkpoint, subfolder="scheduler"
    )
    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        checkpoint, safety_checker=None, scheduler=scheduler
    )
    pipeline.to(torch.float32)
    # For clip skip diffusers 0.42 reaches through a level that transformers 5 no longer has.
    object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reference_run(
    pipeline: Any, *, size: Size, steps: int, **arguments: Any
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """The picture [H, W, 3] in [0, 1], and the estimate of x0 at every evaluation."""
    estimates: list[NDArray[np.float32]] = []
    scheduler = pipeline.scheduler
    step = scheduler.step

    def recording(*args: Any, **kwargs: Any) -> Any:
        output = step(*args, **kwargs)
        if hasattr(output, "pred_original_sample"):
            estimates.append(output.pred_original_sample[0].numpy())
        else:
            # Multistep solvers return no estimate; the newest of those they keep is it.
            estimates.append(scheduler.model_outputs[-1][0].numpy())
        return output

    def recording_tuple(*args: Any, **kwargs: Any) -> Any:
        kwargs["return_dict"] = True
        return (recording(*args, **kwargs).prev_sample,)

    scheduler.step = recording_tuple
    result = pipeline(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        width=size.width,
        height=size.height,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
        **arguments,
    )
    return result.images[0], estimates


def our_run(pipeline: Pipeline, request: Request) -> tuple[Any, list[NDArray[np.float32]]]:
    with pipeline.run(request) as run:
        estimates = [step.denoised for step in run]
        return run.result(), estimates


def hold(
    bundle: Path, checkpoint: Path, sampler: str, size: Size, *, steps: int = 10, **options: Any
) -> None:
    theirs, expected = reference_run(
        reference_pipeline(checkpoint, sampler),
        size=size,
        steps=steps,
        guidance_scale=5.0,
        **{k: v for k, v in options.items() if k in ("guidance_rescale", "clip_skip")},
    )
    request = Request(
        PROMPT,
        negative_prompt=NEGATIVE,
        size=size,
        seed=SEED,
        sampling=Sampling(sampler, steps=steps),
        guidance=Guidance(5.0, rescale=options.get("guidance_rescale", 0.0)),
        clip_skip=options.get("clip_skip") or 0,
    )
    with Pipeline.open(bundle, engine=options.get("engine", "onnxruntime")) as pipeline:
        result, estimates = our_run(pipeline, request)
    assert len(estimates) == len(expected) == steps
    errors = [Difference.between(a, b).relative for a, b in zip(estimates, expected, strict=True)]
    assert max(errors) < STEP_TOLERANCE, errors
    ours = np.asarray(result.images[0]) / 255
    assert ours.shape == (size.height, size.width, 3)
    assert psnr(ours, np.round(theirs * 255) / 255, peak=1.0) >= PICTURE_PSNR


@pytest.mark.parametrize("sampler", sorted(CLASSES))
@pytest.mark.parametrize("configuration", ["heads", "lists", "shapes"])
def test_every_step_and_the_picture_match_diffusers(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    configuration: str,
    sampler: str,
) -> None:
    size = Size(128, 128) if configuration == "shapes" else Size(64, 64)
    hold(bundle(configuration), checkpoint(configuration), sampler, size)


@pytest.mark.parametrize("size", [Size(136, 72), Size(72, 136), Size(8, 24)], ids=str)
@pytest.mark.parametrize("configuration", ["heads", "lists"])
def test_odd_sizes_match_diffusers(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    configuration: str,
    size: Size,
) -> None:
    hold(bundle(configuration), checkpoint(configuration), "euler", size)


def test_openvino_matches_diffusers(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    hold(bundle("lists"), checkpoint("lists"), "euler", Size(136, 72), engine="openvino")


def test_guidance_rescale_matches_diffusers(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    hold(bundle("heads"), checkpoint("heads"), "euler", Size(64, 64), guidance_rescale=0.7)


@pytest.mark.parametrize("configuration", ["heads", "lists"])
def test_clip_skip_matches_diffusers(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path], configuration: str
) -> None:
    hold(bundle(configuration), checkpoint(configuration), "euler", Size(64, 64), clip_skip=1)


def test_no_guidance_evaluates_one_row_and_matches_diffusers(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    pipeline = reference_pipeline(checkpoint("heads"), "ddim")
    theirs = pipeline(
        prompt=PROMPT,
        width=64,
        height=64,
        num_inference_steps=5,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
    ).images[0]
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as ours:
        request = Request(PROMPT, seed=SEED, sampling=Sampling("ddim", steps=5), guidance=1.0)
        picture = np.asarray(ours(request).images[0]) / 255
        assert {k[1] for k in ours.compiled if k[0] == "unet"} == {1}
    assert psnr(picture, np.round(theirs * 255) / 255, peak=1.0) >= PICTURE_PSNR


def test_several_images_match_diffusers_with_a_generator_each(
    bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    pipeline = reference_pipeline(checkpoint("heads"), "ddim")
    theirs = pipeline(
        prompt=[PROMPT] * 3,
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=5.0,
        eta=0.8,
        generator=[torch.Generator().manual_seed(SEED + i) for i in range(3)],
        output_type="np",
    ).images
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as ours:
        result = ours(
            Request(
                PROMPT,
                seed=SEED,
                num_images=3,
                sampling=Sampling("ddim", steps=4, eta=0.8),
                guidance=5.0,
            )
        )
    for mine, his in zip(result.images, theirs, strict=True):
        assert psnr(np.asarray(mine) / 255, np.round(his * 255) / 255, peak=1.0) >= PICTURE_PSNR
