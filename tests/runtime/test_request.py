"""Requests: what is refused, by name, and the way through JSON and back."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentrt.bundle.errors import InputError
from latentrt.runtime import Guidance, Request, Sampling, Size
from latentrt.runtime.noise import GENERATORS

BAD: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": 3},
    "negative_prompt": {"negative_prompt": 3},
    "num_images": {"num_images": 0},
    "seed": {"seed": -1},
    "clip_skip": {"clip_skip": -1},
    "latents": {"latents": np.zeros((1, 4, 8), np.float32)},
    "composed": {"composed": [("b", math.nan)]},
    "generator": {"generator": "xorshift"},
    "crop": {"crop": (0, -1)},
}


@pytest.mark.parametrize("field", sorted(BAD))
def test_a_bad_field_is_named(field: str) -> None:
    arguments = {"prompt": "a", **BAD[field]}
    with pytest.raises(InputError) as caught:
        Request(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Sampling(steps=0), "steps"),
        (lambda: Sampling(steps=True), "steps"),
        (lambda: Sampling(steps=2.5), "steps"),  # pyright: ignore[reportArgumentType]
        (lambda: Sampling(eta=1.5), "eta"),
        (lambda: Sampling(timesteps=("a",)), "timesteps"),  # pyright: ignore[reportArgumentType]
        (lambda: Sampling(sigmas=(1.0, math.nan)), "sigmas"),
        (lambda: Guidance(math.nan), "guidance scale"),
        (lambda: Guidance(math.inf), "guidance scale"),
        (lambda: Guidance(-1), "guidance scale"),
        (lambda: Guidance(5, rescale=2), "guidance rescale"),
        (lambda: Guidance(5, rescale=math.nan), "guidance rescale"),
        (lambda: Size(0, 8), "size width"),
        (lambda: Size(8, -8), "size height"),
        (lambda: Size.parse("512"), "size"),
        (lambda: Size.parse("512x512x3"), "size"),
        (lambda: Size.parse("9999999x8"), "size"),
        (lambda: Request("a", latents=np.full((1, 4, 8, 8), np.nan, np.float32)), "latents"),
        (lambda: Request("a", latents=np.zeros((1, 4, 8, 8), float)), "latents"),  # pyright: ignore[reportArgumentType]
        (lambda: Request("a", latents=np.zeros((2, 4, 8, 8), np.float32)), "latents"),
        (lambda: Request("a", num_images=10**6), "num_images"),
    ],
)
def test_a_bad_value_is_named(make: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field


def test_a_float_will_do_for_guidance() -> None:
    assert Request("a", guidance=3).guidance == Guidance(3.0)


@settings(deadline=None)
@given(
    prompt=st.text(),
    negative=st.none() | st.text(),
    size=st.none() | st.builds(Size, st.integers(1, 16384), st.integers(1, 16384)),
    images=st.integers(1, 1024),
    seed=st.none() | st.integers(0, 2**62),
    steps=st.integers(1, 1000),
    scale=st.floats(0, 100) | st.floats(1, 9),
    rescale=st.floats(0, 1),
    skip=st.integers(0, 12),
    interval=st.none() | st.tuples(st.floats(0, 1), st.floats(2, 100)),
    sigmas=st.none() | st.lists(st.floats(0, 80), min_size=1).map(tuple),
    composed=st.lists(st.tuples(st.text(), st.floats(-9, 9))).map(tuple),
    generator=st.sampled_from(GENERATORS),
    crop=st.tuples(st.integers(0, 99), st.integers(0, 99)),
)
def test_json_and_back_loses_nothing(
    prompt: str,
    negative: str | None,
    size: Size | None,
    images: int,
    seed: int | None,
    steps: int,
    scale: float,
    rescale: float,
    skip: int,
    interval: tuple[float, float] | None,
    sigmas: tuple[float, ...] | None,
    composed: tuple[tuple[str, float], ...],
    generator: str,
    crop: tuple[int, int],
) -> None:
    request = Request(
        prompt,
        negative_prompt=negative,
        size=size,
        num_images=images,
        seed=seed,
        sampling=Sampling(
            "ddim", schedule="trailing", steps=steps, eta=0.5, sigmas=sigmas, brownian=True
        ),
        guidance=Guidance(scale, rescale=rescale, interval=interval),
        clip_skip=skip,
        composed=composed if scale > 1 else (),
        generator=generator,
        original_size=size,
        crop=crop,
        target_size=Size(7, 9),
    )
    again = Request.from_json(json.loads(json.dumps(request.to_json())))
    for field in Request.__dataclass_fields__:
        assert getattr(again, field) == getattr(request, field)


def test_a_request_with_latents_comes_back_only_with_those_latents() -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)
    stored = Request("a", latents=latents).to_json()
    assert np.array_equal(Request.from_json(stored, latents).latents, latents)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="latents"):
        Request.from_json(stored)
    with pytest.raises(InputError, match="latents"):
        Request.from_json(stored, latents + 1)
    with pytest.raises(InputError, match="latents"):
        Request.from_json(Request("a").to_json(), latents)


@pytest.mark.parametrize("value", [{}, {"prompt": "a"}, {"prompt": None, "latents": None}])
def test_malformed_json_is_an_input_error(value: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Request.from_json(value)


def test_a_scale_function_is_named_in_json_and_has_to_be_given_again() -> None:
    def rising(sigma: float) -> float:
        return 1.0 + sigma

    stored = Request("a", guidance=Guidance(rising)).to_json()
    assert json.loads(json.dumps(stored))["guidance"]["scale"] == "function rising"
    with pytest.raises(InputError, match="guidance scale"):
        Request.from_json(stored)
