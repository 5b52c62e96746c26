"""The numbers of a VAE's config that scale latents, beside diffusers."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch
from tests.conftest import VAE

from latentrt.bundle.errors import CheckpointError
from latentrt.export.reference import unscale
from latentrt.weights.families import FAMILIES
from latentrt.weights.latent_space import LatentSpace


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_vae_is_not_shifted_as_in_every_pipeline_here(family: Any) -> None:
    vae = {**VAE, "scaling_factor": 0.18215, "shift_factor": 0.1159}
    space = LatentSpace.of("it/vae", family, vae)
    latents = torch.ones(1, 4, 2, 2)
    pipeline = getattr(diffusers, family.pipeline)
    assert "shift_factor" not in inspect.getsource(pipeline)
    assert torch.equal(unscale(latents, space), latents / vae["scaling_factor"])
    assert space.notes == (f"vae: {family.pipeline} does not read shift_factor 0.1159: ignored",)


STATISTICS = {"latents_mean": [-1.6574, 1.886, -1.383, 2.5155], "latents_std": [8.4, 5.9, 6.5, 5.2]}


# diffusers: only SDXL's pipelines read them, and only both together.
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("stated", [(), ("latents_mean",), ("latents_std",), tuple(STATISTICS)])
def test_a_vaes_statistics_are_read_where_diffusers_pipeline_reads_them(
    family: Any, stated: tuple[str, ...]
) -> None:
    config = {**VAE, "scaling_factor": 0.18215, **{name: STATISTICS[name] for name in stated}}
    space = LatentSpace.of("it/vae", family, config)
    read = len(stated) == 2 and family.name.startswith("stable-diffusion-xl")
    expected = tuple(map(tuple, STATISTICS.values())) if read else (None, None)
    assert (space.mean, space.std) == expected


@pytest.mark.parametrize("value", [0, float("nan"), "0.18", None, [1]])
def test_a_scaling_factor_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"scaling_factor is .*, expected a number"):
        LatentSpace.of("it/vae", FAMILIES[0], {**VAE, "scaling_factor": value})
