"""Variations of a seed, against the web UI's rule computed in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from latentrt.bundle.errors import InputError
from latentrt.runtime import Pipeline, Request, Sampling
from latentrt.runtime.noise import slerp

Pipelines = Callable[[str], Pipeline]


def arc(low: torch.Tensor, high: torch.Tensor, share: float) -> torch.Tensor:
    """The web UI's rule for latents [c, h, w]: an arc for each column of a channel, float64."""
    low, high = low.double(), high.double()
    units = [each / each.norm(dim=1, keepdim=True) for each in (low, high)]
    angle = torch.acos((units[0] * units[1]).sum(1, keepdim=True))
    weights = [torch.sin(angle * each) / torch.sin(angle) for each in (1 - share, share)]
    return weights[0] * low + weights[1] * high


def normal(seed: int) -> torch.Tensor:
    return torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_noise_lies_on_an_arc_between_two_seeds(pipelines: Pipelines, share: float) -> None:
    request = Request(
        "a",
        seed=3,
        num_images=2,
        subseed=9,
        subseed_strength=share,
        sampling=Sampling("euler", steps=1),
    )
    found = pipelines("heads")(request)
    for image in range(2):
        expected = arc(normal(3), normal(9 + image), share).numpy()
        # Rounded once, from float64.
        np.testing.assert_allclose(found.noise[image], expected, rtol=1e-5, atol=1e-6)
        alone = pipelines("heads")(found.request_of(image))
        np.testing.assert_array_equal(alone.noise[0], found.noise[image])


def test_without_strength_a_subseed_changes_nothing(pipelines: Pipelines) -> None:
    plain = Request("a", seed=3, num_images=2, sampling=Sampling("euler", steps=1))
    first, second = (pipelines("heads")(r).noise for r in (plain, plain.with_values(subseed=5)))
    assert np.array_equal(first, second)


def test_a_subseed_that_is_not_given_is_drawn_and_reported(pipelines: Pipelines) -> None:
    request = Request("a", seed=3, subseed_strength=0.2, sampling=Sampling("euler", steps=1))
    found = pipelines("heads")(request)
    assert found.request.subseed is not None
    again = pipelines("heads")(found.request)
    assert found.images[0].tobytes() == again.images[0].tobytes()


def test_alike_noises_are_mixed_along_a_line() -> None:
    low = np.random.default_rng(0).standard_normal((4, 8, 8), dtype=np.float32)
    found = slerp(low, low, 0.5)
    np.testing.assert_allclose(found, low, rtol=1e-6)


def test_noises_of_which_few_columns_are_alike_are_mixed_along_arcs() -> None:
    low, high = normal(3), normal(9)
    high[0, :, 2] = low[0, :, 2] + 1e-3 * normal(5)[0, :, 2]
    found = slerp(low.numpy(), high.numpy(), 0.5)
    np.testing.assert_allclose(found, arc(low, high, 0.5).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"subseed_strength": 1.1}, "subseed_strength"),
        ({"subseed_strength": "x"}, "subseed_strength"),
        ({"subseed": -1}, "subseed"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^{field}: expected"):
        Request("a", **values)
