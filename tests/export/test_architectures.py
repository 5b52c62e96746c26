"""The configs of known architectures, built by their own libraries."""

from __future__ import annotations

import json
import math
from functools import cache

import pytest

from latentrt.export.modules import described
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.canonical_names import canonical_names
from latentrt.weights.component_specs import CLASSES
from latentrt.weights.parts import Shapes

# Millions of parameters of the U-Nets, as published, or half the bytes of the files in float16.
UNETS = {
    "sd15": 859.5,
    "sd15-inpainting": 859.5,
    "sd15-pix2pix": 859.5,
    "lcm": 859.6,
    "sd2-base": 865.9,
    "sd2-depth": 865.9,
    "sd2-inpainting": 865.9,
    "sd2": 865.9,
    "sd21": 865.9,
    "sdxl": 2567.5,
    "sdxl-inpainting": 2567.5,
    "sdxl-refiner": 2259.5,
    "ssd-1b": 1331.3,
    "vega": 745.2,
}
OTHERS = {
    # CLIP ViT-L's, or OpenCLIP ViT-H's without its last layer.
    "text_encoder": (123_060_480, 340_387_840),
    "text_encoder_2": (694_659_840,),
    "vae": (83_653_863,),
}
# Channels that a picture task appends: a mask and a picture, a picture, a depth.
APPENDED = {"inpainting": 5, "pix2pix": 4, "depth": 1}


def shapes_of(name: str, folder: str) -> Shapes:
    return _shapes(folder, json.dumps(ARCHITECTURES[name][folder]))


@cache  # several architectures share their parts
def _shapes(folder: str, config: str) -> Shapes:
    return described(folder, json.loads(config))


def count(name: str, folder: str) -> int:
    return sum(math.prod(shape) for shape in shapes_of(name, folder).values())


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_has_the_published_number_of_parameters(name: str) -> None:
    assert count(name, "unet") / 1e6 == pytest.approx(UNETS[name], abs=0.06)


@pytest.mark.parametrize("name", UNETS)
def test_the_other_parts_have_the_published_numbers_of_parameters(name: str) -> None:
    for folder in set(ARCHITECTURES[name]) & set(OTHERS):
        assert count(name, folder) in OTHERS[folder]


@pytest.mark.parametrize("name", UNETS)
def test_the_names_of_tensors_are_those_of_the_modules(name: str) -> None:
    for folder in set(ARCHITECTURES[name]) & set(CLASSES):
        names = canonical_names(folder, ARCHITECTURES[name][folder])
        assert set(names) == set(shapes_of(name, folder))
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_takes_the_channels_of_its_task(name: str) -> None:
    task = name.rpartition("-")[2]
    assert ARCHITECTURES[name]["unet"]["in_channels"] == 4 + APPENDED.get(task, 0)


def test_every_architecture_is_tested() -> None:
    assert set(ARCHITECTURES) == set(UNETS)


@pytest.mark.parametrize("name", UNETS)
def test_an_architecture_has_a_tokenizer_for_each_text_encoder(name: str) -> None:
    folders = set(ARCHITECTURES[name])
    encoders = {f for f in folders if f.startswith("text_encoder")}
    tokenizers = {f.replace("text_encoder", "tokenizer") for f in encoders}
    assert folders - set(CLASSES) == {"model_index", "scheduler", *tokenizers}
