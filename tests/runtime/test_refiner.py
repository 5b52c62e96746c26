"""SDXL's refiner against diffusers: after the base model in one run, and alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.outcome import Run
from tests.runtime.task_reference import (
    PROMPT,
    SEED,
    check_against,
    picture,
    task_reference,
)

from latentrt.bundle.errors import InputError
from latentrt.runtime import (
    HiresFix,
    ImageToImage,
    Pipeline,
    Refiner,
    Request,
    Sampling,
    Size,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

Folders = Callable[[str], Path]
Pipelines = Callable[[str], Pipeline]
NEGATIVE = "a small star"


@pytest.mark.parametrize(
    ("sampler", "at", "steps"),
    [("euler", 0.8, 10), ("dpmpp_2m", 0.6, 10), ("ddim", 0.8, 10), ("euler_ancestral", 0.7, 10)],
)
def test_a_refiner_takes_over_as_in_diffusers(
    pipelines: Pipelines, checkpoint: Folders, bundle: Folders, sampler: str, at: float, steps: int
) -> None:
    request = Request(
        PROMPT,
        negative_prompt=NEGATIVE,
        seed=SEED,
        size=Size(64, 64),
        sampling=Sampling(sampler, steps=steps, eta=0.0 if sampler == "ddim" else None),
        refiner=Refiner(bundle("refiner"), at),
    )
    found = pipelines("xl")(request)
    shared = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "num_inference_steps": steps,
        "guidance_scale": 7.5,
        "output_type": "latent",
    }
    base = task_reference(checkpoint("xl"), "", sampler)
    generator = torch.Generator().manual_seed(SEED)
    first = base(**shared, height=64, width=64, generator=generator, denoising_end=at).images
    second = task_reference(checkpoint("refiner"), "Img2Img", sampler)
    latents = second(**shared, image=first, generator=generator, denoising_start=at).images
    # The request's model decodes, as in the web UI; real refiners have the same VAE.
    check_against(base, found, latents)
    assert len(found.images) == 1
    assert found.request.provenance is not None
    assert found.request.provenance.refiner == "refiner"


def test_clip_skip_is_for_the_first_model_alone(
    pipelines: Pipelines, checkpoint: Folders, bundle: Folders
) -> None:
    request = Request(
        PROMPT, seed=SEED, size=Size(64, 64), clip_skip=1, refiner=Refiner(bundle("refiner"), 0.5),
        sampling=Sampling("euler", steps=8),
    )  # fmt: skip
    found = pipelines("xl")(request)
    shared = {
        "prompt": PROMPT,
        "num_inference_steps": 8,
        "guidance_scale": 7.5,
        "output_type": "latent",
    }
    base = task_reference(checkpoint("xl"), "", "euler")
    generator = torch.Generator().manual_seed(SEED)
    first = base(
        **shared, height=64, width=64, generator=generator, denoising_end=0.5, clip_skip=1
    ).images
    second = task_reference(checkpoint("refiner"), "Img2Img", "euler")
    latents = second(**shared, image=first, generator=generator, denoising_start=0.5).images
    check_against(base, found, latents)


@pytest.mark.parametrize(("sampler", "strength"), [("euler", 0.3), ("euler_ancestral", 0.7)])
def test_a_refiner_alone_draws_over_a_picture_as_in_diffusers(
    pipelines: Pipelines, checkpoint: Folders, sampler: str, strength: float
) -> None:
    request = Request(
        PROMPT,
        negative_prompt=NEGATIVE,
        seed=SEED,
        task=ImageToImage(picture(), strength),
        sampling=Sampling(sampler, steps=12),
    )
    found = pipelines("refiner")(request)
    reference = task_reference(checkpoint("refiner"), "Img2Img", sampler)
    latents = reference(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        image=picture(),
        strength=strength,
        num_inference_steps=12,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images
    check_against(reference, found, latents)


def test_a_batcher_draws_with_and_without_a_refiner(pipelines: Pipelines, bundle: Folders) -> None:
    pipeline = pipelines("xl")
    plain = Request("a", seed=5, size=Size(64, 64), sampling=Sampling("euler", steps=4))
    requests = [plain, plain.with_values(refiner=Refiner(bundle("refiner"), 0.5))]
    with pipeline.batcher(batch_sizes=(4,)) as batcher:
        alone = [batcher.submit(each).result().images[0].tobytes() for each in requests]
        runs = [batcher.submit(each) for each in requests * 2]
        together = [run.result().images[0].tobytes() for run in runs]
    assert together == alone * 2
    assert alone[0] != alone[1]


@pytest.mark.parametrize(
    ("at", "message"),
    [(0.0, "above 0 and below 1"), (1.0, "above 0 and below 1"), ("x", "above 0 and below 1")],
)
def test_a_share_outside_its_range_is_refused(at: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"refiner at: expected a number {message}"):
        Refiner("refiner", at)


def test_a_refiner_that_does_not_fit_is_named(pipelines: Pipelines, bundle: Folders) -> None:
    few = Request("a", refiner=Refiner(bundle("refiner"), 0.9999), sampling=Sampling(steps=4))
    with pytest.raises(InputError, match="refiner at: expected a share of the noise with steps"):
        pipelines("xl").run(few)
    with pytest.raises(InputError, match="refiner: expected a model of latents scaled by"):
        pipelines("heads").run(few)
    with pytest.raises(InputError, match="refiner: expected a U-Net of 4 channels"):
        pipelines("xl").run(few.with_values(refiner=Refiner(bundle("xl9"))))
    with pytest.raises(InputError, match="task: expected text_to_image or image_to_image with"):
        pipelines("xl").run(few.with_values(task=HiresFix()))
    with pytest.raises(InputError, match="sampler: expected one that two models can share"):
        pipelines("xl").run(
            few.with_values(refiner=Refiner(bundle("refiner")), sampling=Sampling("plms", steps=9))
        )


def test_a_picture_drawn_again_finds_its_refiner_by_name(tmp_path: Path) -> None:
    drawn = Request("a", refiner=Refiner(tmp_path / "second", 0.7)).to_json()
    others = [Refiner(tmp_path / "first"), Refiner(tmp_path / "second")]
    found = Request.from_json(drawn, attachments=others).refiner
    assert found == Refiner(tmp_path / "second", 0.7)
    with pytest.raises(InputError, match="refiner: expected the picture's, 'second', got first"):
        Request.from_json(drawn, attachments=others[:1])


def test_a_prompt_changes_within_the_steps_of_both_models(
    pipelines: Pipelines, bundle: Folders
) -> None:
    def drawn(prompt: str) -> bytes:
        sampling = Sampling("euler", steps=10)
        refiner = Refiner(bundle("refiner"), 0.8)
        request = Request(prompt, seed=1, size=Size(64, 64), sampling=sampling, refiner=refiner)
        return pipelines("xl")(request).images[0].tobytes()

    half = drawn("a [star:square:0.5]")
    assert half == drawn("a [star:square:5]")
    assert half != drawn("a [star:square:4]")
    assert drawn("a [star:square:0.9]") == drawn("a [star:square:9]") != drawn("a star")


def test_a_refiner_is_built_ahead_and_inspected(run: Run, bundle: Folders) -> None:
    done = run("build", bundle("refiner"), "--engine", "onnxruntime", "--batch", 2)
    assert done.status == 0, done.err
    assert run("inspect", bundle("refiner"), "--prompt", "a (red:1.2) circle").status == 0


def test_the_command_refines_and_draws_it_again(run: Run, bundle: Folders, tmp_path: Path) -> None:
    out, again = tmp_path / "a.png", tmp_path / "b.png"
    engine = ["--engine", "onnxruntime"]
    ordered = ["generate", bundle("xl"), "a", "-o", out, "--steps", 6, "--seed", 1, *engine]
    done = run(*ordered, "--refiner", bundle("refiner"), "--refiner-at", 0.5)
    assert done.status == 0, done.err
    with Image.open(out) as drawn:
        stored = json.loads(drawn.info["latentrt"])
    assert stored["refiner"] == {"name": "refiner", "at": 0.5}
    repeated = ["generate", bundle("xl"), "--from", out, "-o", again, *engine]
    assert "refiner: expected the picture's, 'refiner', got none" in run(*repeated).err
    assert run(*repeated, "--refiner", bundle("refiner")).status == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))
    done = run("generate", bundle("xl"), "a", "-o", out, "--refiner-at", 0.5)
    assert "refiner-at: expected none without --refiner" in done.err
