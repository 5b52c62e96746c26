"""Engines against the goldens, for every family; and that what is wrong shows where it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from tests.benchmarks.planted import planted
from tests.conftest import CONFIGURATIONS

from latentrt.benchmarks.numerics.compare import compare
from latentrt.benchmarks.numerics.reference import Reference
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.golden import RUN_PROMPT
from latentrt.runtime import Pipeline


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("configuration", sorted(CONFIGURATIONS))
def test_every_component_prompt_and_step_matches_pytorch(
    bundle: Callable[[str], Path], configuration: str, engine: str
) -> None:
    with Pipeline.open(bundle(configuration), engine=engine) as pipeline:
        comparison = compare(pipeline)
        names = tuple(pipeline.bundle.manifest.components)
    assert comparison.passed, comparison
    assert tuple(row.name for row in comparison.components) == (*names, "prompts")
    assert len(comparison.steps) == 4
    # Rounding leaves some 130 dB; 55 is the promise.
    assert comparison.picture_psnr > 55
    assert comparison.picture_ssim > 1 - 1e-6
    # One evaluation's rounding: 1.3e-6 at most, where what guidance multiplies is largest.
    assert len(comparison.alone) == 4
    assert max(step.difference.relative for step in comparison.alone) < 5e-6


def test_a_wrong_projection_shows_in_the_prompts_and_in_every_step(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    # No graph reads it, so nothing else would show it.
    folder = Path(shutil.copytree(bundle("xl"), tmp_path / "xl"))
    path = folder / "weights" / "text_encoder_2.safetensors"
    content = bytearray(path.read_bytes())
    original = safetensors.torch.load(bytes(content))["text_projection.weight"]
    at = content.index(original.numpy().tobytes())
    content[at : at + original.numel() * 4] = original.flip(0).contiguous().numpy().tobytes()
    opened = Bundle.open(folder)
    path.write_bytes(content)
    with Pipeline(opened, "onnxruntime", guarded=False) as pipeline:
        comparison = compare(pipeline)
    assert {row.name for row in comparison.components if not row.passed} == {"prompts"}
    assert comparison.first_bad_step == 0


def test_a_wrong_negative_prompt_shows_in_prompts_and_the_run_but_in_no_step_alone(
    bundle: Callable[[str], Path],
) -> None:
    # Each step alone is computed from the reference's own latents and text states.
    opened = Bundle.open(bundle("xl"))
    manifest = replace(opened.manifest, force_zeros_for_empty_prompt=False)
    with Pipeline(replace(opened, manifest=manifest), "onnxruntime") as pipeline:
        comparison = compare(pipeline)
    assert {row.name for row in comparison.components if not row.passed} == {"prompts"}
    alone = max(step.difference.relative for step in comparison.alone)
    assert alone < 5e-6
    assert min(step.difference.relative for step in comparison.steps) > 10 * alone


def test_a_fault_of_the_unet_shows_in_every_step_alone(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    spoiled = planted(bundle("lists"), tmp_path / "spoiled", "unet", "conv_out.weight")
    with Pipeline(spoiled, "onnxruntime", guarded=False) as pipeline:
        comparison = compare(pipeline)
    # 1 % of the model's output, in the share that a step has of it.
    assert min(step.difference.relative for step in comparison.alone) > 1e-3
    assert not comparison.passed


def test_a_step_alone_starts_from_the_reference_and_the_run_from_its_own_latent(
    bundle: Callable[[str], Path],
) -> None:
    opened = Bundle.open(bundle("heads"))
    moved = "run/steps/1/latents"
    golden = dict(opened.golden())
    golden[moved] = golden[moved] * np.float32(1.1)
    reference = Reference(RUN_PROMPT, "stored", golden)
    with Pipeline(opened, "onnxruntime", guarded=False) as pipeline:
        comparison = compare(pipeline, [reference])
    off = [step.difference.relative > 1e-3 for step in comparison.alone]
    assert off == [False, True, True, False]
    assert [not step.passed for step in comparison.steps] == [False, True, False, False]


def test_a_step_alone_has_a_tighter_tolerance_than_a_step_of_the_run(
    bundle: Callable[[str], Path],
) -> None:
    # 5e-5 lies between what a run in fp32 may add up to, 1e-4, and what one evaluation rounds.
    opened = Bundle.open(bundle("heads"))
    golden = dict(opened.golden())
    golden["run/steps/3/latents"] = golden["run/steps/3/latents"] * np.float32(1 + 5e-5)
    reference = Reference(RUN_PROMPT, "stored", golden)
    with Pipeline(opened, "onnxruntime", guarded=False) as pipeline:
        comparison = compare(pipeline, [reference])
    assert [step.passed for step in comparison.alone] == [True, True, True, False]
    assert all(step.passed for step in comparison.steps)
    assert not comparison.passed


# What bf16 in one component excuses in what several make together: what it has no part in, it does
# not. Every fault is beyond fp32's tolerance and within bf16's.
@pytest.mark.usefixtures("bf16_offered")
@pytest.mark.parametrize(
    ("loose", "refused"),
    [
        ("text_encoder", {"alone"}),
        ("unet", {"prompts"}),
        ("vae_decoder", {"prompts", "alone", "run"}),
        ("vae_encoder", {"prompts", "alone", "run", "picture"}),
    ],
)
def test_a_low_precision_widens_only_tolerances_that_its_component_affects(
    bundle: Callable[[str], Path], loose: str, refused: set[str]
) -> None:
    opened = Bundle.open(bundle("heads"))
    golden = dict(opened.golden())
    for name, factor in (("run/encoder_hidden_states", 1.002), ("run/steps/1/latents", 1.01)):
        golden[name] = golden[name] * np.float32(factor)
    # 0.01 of a range of 2: 46 dB.
    golden["run/images"] = golden["run/images"] + np.float32(0.01)
    reference = Reference(RUN_PROMPT, "stored", golden)
    own = {loose: "openvino:bf16"}
    with Pipeline(opened, "onnxruntime", components=own, guarded=False) as pipeline:
        comparison = compare(pipeline, [reference])
    passed = {
        "prompts": comparison.components[-1].passed,
        "alone": all(step.passed for step in comparison.alone),
        "run": all(step.passed for step in comparison.steps),
        "picture": comparison.alike,
    }
    assert {name for name, good in passed.items() if not good} == refused
    assert all(row.passed for row in comparison.components[:-1])


@pytest.mark.parametrize("pixel", [np.nan, np.inf])
@pytest.mark.parametrize("first", [False, True])
def test_one_picture_with_nan_or_infinity_fails_the_comparison(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, pixel: float, first: bool
) -> None:
    # Only `<` and `>` say nothing of NaN, and infinity is clipped to white, which may be right.
    opened = Bundle.open(bundle("heads"))
    golden = {**opened.golden()}
    golden["run/images"] = np.ones_like(golden["run/images"])
    decoded = [golden["run/images"].copy() for _ in range(2)]
    decoded[not first][..., 0, 0] = pixel
    given = iter(decoded)
    monkeypatch.setattr(Pipeline, "decode", lambda *_: next(given))
    references = [Reference(RUN_PROMPT, "stored", golden)] * 2
    with Pipeline(opened, "onnxruntime", guarded=False) as pipeline:
        comparison = compare(pipeline, references)
    good, bad = (comparison.runs[first], comparison.runs[not first])
    assert (good.psnr, good.ssim) == (np.inf, 1.0)
    assert np.isnan([bad.psnr, bad.ssim]).all()
    assert not comparison.alike
    assert not comparison.passed
    value = comparison.to_json()
    assert (value["picture_psnr"], value["picture_ssim"]) == (None, None)
    assert all(row.passed for row in (*comparison.components, *comparison.steps))
