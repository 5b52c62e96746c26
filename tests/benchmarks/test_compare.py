"""Engines against the goldens, for every family; and that what is wrong shows where it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
from tests.conftest import CONFIGURATIONS

from latentrt.benchmarks.compare import compare
from latentrt.bundle.bundle import Bundle
from latentrt.engines.engine import Options
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
    with Pipeline(opened, "onnxruntime", Options(), {}) as pipeline:
        comparison = compare(pipeline)
    assert {row.name for row in comparison.components if not row.passed} == {"prompts"}
    assert comparison.first_bad_step == 0


def test_zeros_in_place_of_the_empty_prompt_show_in_the_prompts(
    bundle: Callable[[str], Path],
) -> None:
    opened = Bundle.open(bundle("xl"))
    manifest = replace(opened.manifest, force_zeros_for_empty_prompt=False)
    with Pipeline(replace(opened, manifest=manifest), "onnxruntime", Options(), {}) as pipeline:
        comparison = compare(pipeline)
    assert {row.name for row in comparison.components if not row.passed} == {"prompts"}
