"""The checkpoint that ships: its layout, and that it draws what it is asked for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from evaluate import evaluation
from latentrt.benchmarks.numerics.compare import compare
from latentrt.runtime import Pipeline
from recognise import recognise

ROOT = Path(__file__).parents[1]
SHAPES = ROOT / "models" / "shapes"
FLOOR = {"colour": 0.85, "background": 0.85, "position": 0.70, "shape": 0.70}
"""Shares of pictures below which the checkpoint is not fit to ship."""


def test_the_checkpoint_is_a_diffusers_folder_of_at_most_25_megabytes() -> None:
    index = json.loads((SHAPES / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    for folder in ("text_encoder", "unet", "vae", "tokenizer", "scheduler"):
        assert (SHAPES / folder).is_dir()
    files = [p for p in SHAPES.rglob("*") if p.is_file() and SHAPES / "extras" not in p.parents]
    assert sum(p.stat().st_size for p in files) <= 25e6


@pytest.mark.parametrize("folder", ["text_encoder", "unet", "vae"])
def test_weights_are_fp16_under_canonical_names(folder: str) -> None:
    (path,) = (SHAPES / folder).glob("*.safetensors")
    with safe_open(path, "np") as file:
        dtypes = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        names = set(file.keys())
    assert dtypes == {"F16"}
    if folder == "text_encoder":
        assert all(name.startswith("text_model.") for name in names)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_component_and_step_matches_pytorch(
    bundle: Callable[[str], Path], engine: str
) -> None:
    with Pipeline.open(bundle("shapes"), engine=engine) as pipeline:
        comparison = compare(pipeline)
    assert comparison.passed, comparison
    # Rounding leaves some 120 dB; 55 is the promise.
    assert comparison.picture_psnr > 55


def test_make_run_draws_a_large_red_circle_on_a_blue_background(tmp_path: Path) -> None:
    # The command as the Makefile has it.
    recipe = (ROOT / "Makefile").read_text()
    match = re.search(r"generate models/shapes (\"[^\"]+\") \\\n\s*-o \$\(PICTURE\) (.*)\n", recipe)
    assert match is not None
    prompt, options = match[1].strip('"'), match[2].split()
    assert prompt == "a large red circle on a blue background"
    picture = tmp_path / "picture.png"
    code = "from latentrt.cli.main import main; main()"
    command = ["generate", str(SHAPES), prompt, "-o", str(picture), *options]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == str(picture)
    with Image.open(picture) as image:
        recognised = recognise(image.convert("RGB"))
    found = (recognised.colour, recognised.shape, recognised.position, recognised.background)
    assert found == ("red", "circle", "centre", "blue")
    assert recognised.area > 2000  # large: a circle of radius 31 has 3019 pixels, of 18 1018


def record() -> dict[str, Any]:
    """What evaluate.py wrote of 200 prompts that no training picture has."""
    return json.loads((SHAPES / "adherence.json").read_text())


def test_the_evaluation_of_200_prompts_is_above_the_floor_to_ship() -> None:
    outcomes = record()["outcomes"]
    assert len(outcomes) == 200
    shares = {name: sum(o["right"][name] for o in outcomes) / 200 for name in FLOOR}
    assert all(share >= FLOOR[name] for name, share in shares.items()), shares


def test_pictures_show_what_the_evaluation_recorded(bundle: Callable[[str], Path]) -> None:
    count = 12
    with Pipeline.open(bundle("shapes")) as pipeline:
        outcomes = evaluation(pipeline, count).outcomes
    expected = record()["outcomes"][:count]
    assert [o.prompt for o in outcomes] == [o["prompt"] for o in expected]
    # Rounding in fp32 moves no pixel by a level that the recognition could tell.
    assert [asdict(o.adherence) for o in outcomes] == [o["right"] for o in expected]
    assert len({tuple(o["right"].items()) for o in expected}) > 1  # right and wrong ones
