"""Which pipelines of diffusers are of which family."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers.pipelines import auto_pipeline

from latentrt.weights.families import FAMILIES

# The refiner's pipeline is SDXL's for image to image: its index says that it is a refiner.
NAMED = [family for family in FAMILIES if not family.name.endswith("-refiner")]


@pytest.mark.parametrize("family", NAMED, ids=lambda family: family.name)
def test_every_pipeline_that_diffusers_takes_for_text_to_image_is_of_its_family(
    family: Any,
) -> None:
    keys = {"latent-consistency": "lcm"}.get(family.name, family.name)
    mappings = [
        auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    ]
    others = ("-xl", "-3") if family.name == "stable-diffusion" else ()
    names = {
        kind.__name__
        for mapping in mappings
        for key, kind in mapping.items()
        if key.startswith(keys) and not key.startswith(tuple(f"{keys}{o}" for o in others))
    }
    assert family.pipeline in names
    assert len(names) >= 2
    for name in names:
        matching = [f.name for f in FAMILIES if f.siblings.fullmatch(name)]
        assert matching == [family.name], name


def test_a_pipeline_of_another_architecture_is_of_no_family() -> None:
    names = (
        "StableDiffusion3Pipeline",
        "FluxPipeline",
        "StableUnCLIPPipeline",
        "AnimateDiffPipeline",
    )
    assert not [n for n in names for f in FAMILIES if f.siblings.fullmatch(n)]
