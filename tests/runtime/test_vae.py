"""Large pictures in tiles, and pictures that overflow in 16 bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError, NonFinite
from latentrt.bundle.golden import psnr
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays
from latentrt.engines.function import FunctionEngine
from latentrt.runtime import Pipeline, Request, Sampling, Size
from latentrt.runtime import tiles as module
from latentrt.runtime.pixels import to_pixels
from latentrt.runtime.resampling import resample
from latentrt.runtime.rows import Calls, Model
from latentrt.runtime.tiles import OVERLAP, TILE, joined, tiles
from latentrt.runtime.vae import Vae

Pipelines = Callable[[str], Pipeline]
sides = st.integers(1, 300)
SEAMS = 40.0
"""dB between a picture in tiles and the whole one: group norms see a tile, not the picture.

Measured are 48 dB with tiles of 64 latents. A tile in the wrong place gives 15 dB.
"""


@given(sides, sides)
def test_tiles_of_one_size_cover_everything_and_overlap(height: int, width: int) -> None:
    found = tiles(height, width)
    assert {(each.height, each.width) for each in found} == {(min(TILE, height), min(TILE, width))}
    covered = np.zeros((1, height, width), np.int64)
    for each in found:
        part = each.of(covered)  # type: ignore[arg-type]
        assert part.shape == (1, each.height, each.width)
        part += 1
    assert covered.min() >= 1
    rows = sorted({each.top for each in found})
    assert all(a + TILE - b >= OVERLAP for a, b in itertools.pairwise(rows))


@given(sides, sides, st.integers(1, 3))
def test_tiles_of_one_array_join_to_that_array(height: int, width: int, factor: int) -> None:
    array = np.random.default_rng(height * 301 + width).standard_normal(
        (2, height * factor, width * factor), dtype=np.float32
    )
    parts = [(each, each.of(array, factor)) for each in tiles(height, width)]
    # A weighted mean of equal numbers: rounding alone.
    np.testing.assert_allclose(joined(parts, factor), array, rtol=1e-5, atol=1e-6)


def test_a_picture_in_tiles_is_the_whole_one_but_for_norms(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILE", 32)
    monkeypatch.setattr(module, "OVERLAP", 8)
    pipeline = pipelines("shapes")
    request = Request("a large red circle", seed=4, sampling=Sampling("euler", steps=8))
    latent = resample(pipeline(request).latents[0], 40, 36, "bilinear")
    vae, calls = pipeline._planning._vae, Calls({"vae": (1,), "unet": (1,)})
    whole, tiled = (
        to_pixels(calls.answer(each.decode(latent)).pixels).astype(np.float64)
        for each in (vae, vae.in_tiles())
    )
    assert whole.shape == tiled.shape == (320, 288, 3)
    assert not np.array_equal(whole, tiled)
    assert psnr(tiled, whole, peak=255.0) >= SEAMS


def test_a_small_picture_in_tiles_is_the_same(pipelines: Pipelines) -> None:
    request = Request("a", seed=4, sampling=Sampling("euler", steps=2))
    drawn = [
        pipelines("heads")(request.with_values(tiling=each)).images[0].tobytes()
        for each in ("off", "on")
    ]
    assert drawn[0] == drawn[1]


def test_tiles_are_taken_where_the_memory_would_not_do(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipelines("shapes")
    planning = pipeline._planning
    request = Request("a", seed=1, size=Size(768, 768), sampling=Sampling("euler", steps=1))
    small = replace(planning._limit, memory=400 << 20, whole_attention=False)
    assert not pipeline.plan(request).decode.__self__.tiled  # type: ignore[attr-defined]
    monkeypatch.setattr(planning, "_limit", small)
    assert pipeline.plan(request).decode.__self__.tiled  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="size: expected at most"):
        pipeline.plan(request.with_values(tiling="off"))


def decoder(pixels: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Model:
    """A decoder with factor 8 that gives these pixels."""
    spec = TensorSpec("latents", ("batch", 4, "height", "width"))

    def engine(sizes: Mapping[str, int], *_: object) -> FunctionEngine:
        def call(arrays: Arrays) -> dict[str, NDArray[np.float32]]:
            larger = np.kron(arrays["latents"][:, :3], np.ones((1, 1, 8, 8), np.float32))
            return {"images": pixels(larger)}

        return FunctionEngine("vae_decoder", (spec.fixed(sizes),), (), call)

    return Model("vae_decoder", (spec,), engine)


def overflowing(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full_like(images, np.nan)


def as_it_is(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return images


def encoder(sizes: list[tuple[int, ...]], factor: float = 1.0) -> Model:
    """An encoder whose moments are the means of 8 x 8 pixels; `sizes` gets those of its calls."""
    spec = TensorSpec("images", ("batch", 3, "image_height", "image_width"))

    def engine(fixed: Mapping[str, int], *_: object) -> FunctionEngine:
        def call(arrays: Arrays) -> dict[str, NDArray[np.float32]]:
            n, c, h, w = arrays["images"].shape
            sizes.append((h, w))
            blocks = arrays["images"].reshape(n, c, h // 8, 8, w // 8, 8).mean((3, 5))
            return {"moments": blocks[:, [0, 1, 2, 0, 1, 2, 0, 1]] * np.float32(factor)}

        return FunctionEngine("vae_encoder", (spec.fixed(fixed),), (), call)

    return Model("vae_encoder", (spec,), engine)


def test_a_picture_is_encoded_in_tiles_of_one_size_that_join(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILE", 8)
    monkeypatch.setattr(module, "OVERLAP", 2)
    manifest = pipelines("heads").bundle.manifest
    images = np.random.default_rng(0).standard_normal((3, 160, 88), dtype=np.float32)
    calls = Calls({"vae": (1,), "unet": (1,)})
    whole, parts = [], []
    expected = calls.answer(Vae(manifest, decoder(as_it_is), encoder(whole)).encode(images))
    vae = Vae(manifest, decoder(as_it_is), encoder(parts)).in_tiles()
    found = calls.answer(vae.encode(images))
    assert whole == [(160, 88)]
    assert set(parts) == {(64, 64)}
    assert dict(vae.encoder_need(20, 11).sizes)["image_height"] == 64
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_a_posterior_is_that_of_diffusers_also_where_its_variance_has_no_bounds(
    pipelines: Pipelines, factor: float
) -> None:
    images = np.random.default_rng(0).standard_normal((3, 64, 64), dtype=np.float32)
    vae = Vae(pipelines("heads").bundle.manifest, decoder(as_it_is), encoder([], factor))
    found = Calls({"vae": (1,), "unet": (1,)}).answer(vae.encode(images))
    blocks = torch.from_numpy(images).reshape(3, 8, 8, 8, 8).mean((2, 4))
    moments = blocks[[0, 1, 2, 0, 1, 2, 0, 1]] * factor
    expected = DiagonalGaussianDistribution(moments[None])
    np.testing.assert_allclose(found.mean, expected.mean[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.std, expected.std[0], rtol=1e-3)


def test_an_encode_that_overflows_is_done_once_more_in_fp32(pipelines: Pipelines) -> None:
    manifest = pipelines("heads").bundle.manifest
    images = np.ones((3, 64, 64), np.float32)
    calls = Calls({"vae": (1,), "unet": (1,)})
    broken = encoder([], np.nan)
    wide = (decoder(overflowing), encoder([], 2.0))
    found = calls.answer(Vae(manifest, decoder(as_it_is), broken, wide).encode(images))
    np.testing.assert_array_equal(found.mean, np.full((4, 8, 8), 2.0))
    for others in ((), (broken,)):
        with pytest.raises(NonFinite, match="vae_encoder"):
            calls.answer(Vae(manifest, decoder(as_it_is), broken, others).encode(images))


def test_a_decode_that_overflows_is_done_once_more_in_fp32_and_noted(pipelines: Pipelines) -> None:
    manifest = pipelines("heads").bundle.manifest
    latent = np.random.default_rng(0).standard_normal((4, 8, 8), dtype=np.float32)
    calls = Calls({"vae": (1,), "unet": (1,)})
    plain = calls.answer(Vae(manifest, decoder(as_it_is), None).decode(latent))
    assert plain.notes == ()
    narrow = Vae(manifest, decoder(overflowing), None, (decoder(as_it_is),))
    found = calls.answer(narrow.decode(latent))
    assert np.array_equal(found.pixels, plain.pixels)
    assert found.notes == ("vae_decoder: not finite in 16 bits, decoded once more in fp32",)
    for wide in ((), (decoder(overflowing),)):
        with pytest.raises(NonFinite):
            calls.answer(Vae(manifest, decoder(overflowing), None, wide).decode(latent))


def test_a_picture_whose_decoder_overflows_is_drawn_by_the_fp32_engine(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipelines("heads")
    request = Request("a", seed=4, sampling=Sampling("euler", steps=2))
    expected = pipeline(request).images[0].tobytes()
    inputs = pipeline.bundle.manifest.components["vae_decoder"].inputs
    wide = Model("vae_decoder", inputs, partial(pipeline._widened, "vae_decoder"))
    broken = Vae(pipeline.bundle.manifest, decoder(overflowing), None, (wide,))
    monkeypatch.setattr(pipeline._planning, "_vae", broken)
    found = pipeline(request)
    assert found.images[0].tobytes() == expected
    assert found.notes == ("vae_decoder: not finite in 16 bits, decoded once more in fp32",)
