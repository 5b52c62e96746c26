"""LoRAs of a command line: files, their scales, and the tags of prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentrt.bundle.errors import InputError
from latentrt.cli.weights import loras_of
from latentrt.runtime import Lora


@pytest.fixture
def ink(tmp_path: Path) -> Path:
    """A file, which is not read."""
    path = tmp_path / "a=b:c.safetensors"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("scales", "arguments"),
    [
        ("", {}),
        ("=0.8", {"scale": 0.8}),
        ("=-1", {"scale": -1.0}),
        ("=0.8,up.1:1.2,mid:0", {"scale": 0.8, "blocks": {"up.1": 1.2, "mid": 0}}),
        ("=mid:0", {"blocks": {"mid": 0}}),
        ("=2,text_encoder:0.4,unet:0.7", {"scale": 2.0, "unet": 0.7, "text_encoder": 0.4}),
        ("=IN04:0.5,BASE:1", {"blocks": {"IN04": 0.5, "BASE": 1}}),
    ],
)
def test_scales_follow_the_files_name(ink: Path, scales: str, arguments: dict[str, object]) -> None:
    (found,), prompts = loras_of([f"{ink}{scales}"], None, ["a fox <lora:ink:1>"])
    assert found == Lora(ink, **arguments)  # pyright: ignore[reportArgumentType]
    assert prompts == ["a fox <lora:ink:1>"]  # without a folder it is text


@pytest.mark.parametrize(
    ("scales", "problem"),
    [
        ("=", r"^lora: expected FILE, FILE=SCALE or FILE=SCALE,up\.1:SCALE, got "),
        ("=x", "^lora: expected FILE, FILE=SCALE"),
        ("=1,2", "^lora: expected FILE, FILE=SCALE"),
        ("=1,mid:", "^lora: expected FILE, FILE=SCALE"),
        ("=1,mid:0,mid:1", "^lora: expected FILE, FILE=SCALE"),
        ("=1,middle:0", "^blocks: expected names such as"),
        ("=nan", "^scale: expected a finite number, got nan"),
        ("=1,unet:inf", "^unet: expected a finite number, got inf"),
    ],
)
def test_scales_that_are_none_are_refused(ink: Path, scales: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        loras_of([f"{ink}{scales}"], None, [])


def test_a_tag_names_a_file_of_the_folder_and_leaves_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").touch()
    found, prompts = loras_of([], tmp_path, ["a fox, <lora:ink:0.8>", "a boat"])
    assert found == [Lora(tmp_path / "ink.safetensors", 0.8)]
    assert prompts == ["a fox,", "a boat"]
