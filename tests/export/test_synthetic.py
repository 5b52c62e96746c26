"""Random checkpoints of real architectures, without tracing them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from latentrt.export.modules import described
from latentrt.export.synthetic import open_source
from latentrt.export.tokenizer import open_tokenizers
from latentrt.weights.families import family_of, forces_zeros
from latentrt.weights.parts import open_parts

# Parameters of the checkpoints as published.
VIT_L, VIT_H, BIG_G, VAE = 123_060_480, 340_387_840, 694_659_840, 83_653_863
PARAMETERS = {
    "sd15": {"text_encoder": VIT_L, "unet": 859_520_964, "vae": VAE},
    "sd21": {"text_encoder": VIT_H, "unet": 865_910_724, "vae": VAE},
    "sdxl": {
        "text_encoder": VIT_L,
        "text_encoder_2": BIG_G,
        "unet": 2_567_463_684,
        "vae": VAE,
    },
}
# "!" is the first letter of CLIP's vocabulary, its end token the last entry.
PHOTO = [320, 1125, 539, 320, 2368]
PADS = {"sd15": [49407], "sd21": [0], "sdxl": [49407, 0]}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_random_checkpoint_has_the_published_numbers_of_parameters(name: str) -> None:
    source = open_source(f"random:{name}")
    parts = open_parts(source, family_of(source), described)
    found = {
        folder: sum(math.prod(part.tensors.entry(n).shape) for n in part.names)
        for folder, part in parts.items()
    }
    assert found == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "sizes", "prediction_type", "scaling", "zeros"),
    [
        ("sd15", 64, "epsilon", 0.18215, False),
        ("sd21", 96, "v_prediction", 0.18215, False),
        ("sdxl", 128, "epsilon", 0.13025, True),
    ],
)
def test_a_random_checkpoint_states_what_the_published_one_does(
    name: str, sizes: int, prediction_type: str, scaling: float, zeros: bool
) -> None:
    source = open_source(f"random:{name}")
    assert source.config("unet")["sample_size"] == sizes
    assert source.config("scheduler")["prediction_type"] == prediction_type
    assert source.config("vae")["scaling_factor"] == scaling
    assert forces_zeros(source, family_of(source)) is zeros


@pytest.mark.parametrize("name", PADS)
def test_a_random_checkpoints_tokenizers_have_clips_ids(name: str, tmp_path: Path) -> None:
    source = open_source(f"random:{name}")
    family = family_of(source)
    parts = open_parts(source, family, described)
    tokenizers = open_tokenizers(source, family, parts, tmp_path)
    for tokenizer, pad in zip(tokenizers.values(), PADS[name], strict=True):
        ids = tokenizer("")[0]
        assert ids[:2].tolist() == [49406, 49407]
        assert set(ids[2:].tolist()) == {pad}
        assert len(ids) == 77
        # CLIP's own ids of these words.
        assert tokenizer("a photo of a cat")[0][:7].tolist() == [49406, *PHOTO, 49407]


def test_a_random_tensor_depends_on_its_name_alone() -> None:
    first = open_source("random:sdxl").tensors("text_encoder_2")
    second = open_source("random:sdxl").tensors("text_encoder_2")
    name = "text_projection.weight"
    second["text_model.final_layer_norm.bias"]
    np.testing.assert_array_equal(first[name], second[name])
    other = open_source("random:sdxl").tensors("text_encoder")
    norm = "text_model.final_layer_norm.weight"
    assert not np.array_equal(first[norm][:768], other[norm])
    assert first.entry(name).shape == first[name].shape == (1280, 1280)
