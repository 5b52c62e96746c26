"""How large pictures may be by default, and by the operator's word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import ComponentRecord, Manifest
from latentrt.runtime import Pipeline, Request, Sampling, Size
from latentrt.runtime import bundle_engines as engines_of_bundles
from latentrt.runtime.size_limit import SizeLimit

GB = 10**9
# Of the published configs (stable-diffusion-v1-5 and stable-diffusion-xl-base-1.0).
VAE = {"block_out_channels": [128, 256, 512, 512]}
SD15 = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "attention_head_dim": 8,
}
SDXL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "attention_head_dim": [5, 10, 20],
}


def manifest(unet: Mapping[str, Any], side: int) -> Manifest:
    """What the limit reads of a manifest; latents are `side` times `side` by default."""
    configs = {"unet": unet, "vae_decoder": VAE}
    return Manifest(
        family="",
        dtype="float32",
        latent_channels=4,
        vae_factor=8,
        vae_scaling=1.0,
        vae_shift=0.0,
        sample_size=(side, side),
        prediction_type="epsilon",
        force_zeros_for_empty_prompt=False,
        latents_mean=None,
        latents_std=None,
        components={n: ComponentRecord("", "", "", (), (), c) for n, c in configs.items()},
        storage={},
        islands={},
        files={},
    )


def limit(
    unet: Mapping[str, Any],
    side: int,
    memory: int | None,
    *,
    most: int | None = None,
    whole: bool = True,
) -> SizeLimit:
    return SizeLimit(manifest(unet, side), most, memory, whole_attention=whole)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("unet", "side", "size"), [(SD15, 64, Size(768, 768)), (SDXL, 128, Size(1024, 1024))]
)
def test_usual_sizes_are_allowed_on_24_gb(
    unet: Mapping[str, Any], side: int, size: Size, whole: bool
) -> None:
    limit(unet, side, 20 * GB, whole=whole).check(size, rows=2)


@pytest.mark.parametrize("memory", [None, 24 * GB, 10_000 * GB])
@pytest.mark.parametrize(("unet", "side"), [(SD15, 64), (SDXL, 128), ({}, 1)])
def test_16384_is_refused_on_any_machine(
    unet: Mapping[str, Any], side: int, memory: int | None
) -> None:
    with pytest.raises(InputError, match=r"^size: expected at most \d+x\d+ pixels .*16384x16384"):
        limit(unet, side, memory).check(Size(16384, 16384), rows=2)


def test_a_long_picture_counts_by_its_pixels() -> None:
    with pytest.raises(InputError):
        limit(SD15, 64, None).check(Size(16384, 512), rows=2)
    limit(SD15, 64, None).check(Size(8192, 512), rows=2)


def test_the_checkpoints_own_size_is_allowed_however_little_memory_there_is() -> None:
    limit(SDXL, 128, 1).check(Size(1024, 1024), rows=2)


@pytest.mark.parametrize(
    "more", [{"rows": 32}, {"rows": 2, "decodes": 8}, {"rows": 2, "images": 1024}]
)
def test_batches_and_numbers_of_pictures_count(more: dict[str, int]) -> None:
    size, bound = Size(768, 768), limit(SD15, 64, 12 * GB)
    bound.check(size, rows=2)
    if "images" in more:
        bound, size = limit(SD15, 64, 2 * GB, whole=False), Size(768, 512)
        bound.check(size, rows=2)
    with pytest.raises(InputError, match="768"):
        bound.check(size, **more)  # type: ignore[arg-type]


def test_the_largest_square_that_is_named_is_allowed_and_the_next_is_not() -> None:
    bound = limit(SD15, 64, 20 * GB)
    with pytest.raises(InputError) as refused:
        bound.check(Size(4096, 4096), rows=2)
    named = Size.parse(refused.value.expected.split()[2])
    bound.check(named, rows=2)
    with pytest.raises(InputError):
        bound.check(Size(named.width + 8, named.height + 8), rows=2)


def test_the_operators_limit_replaces_the_default() -> None:
    limit(SD15, 64, 1, most=16384**2).check(Size(16384, 16384), rows=2)
    with pytest.raises(InputError, match=r"at most 512x512 pixels \(max_pixels is 262144\), got"):
        limit(SD15, 64, None, most=512 * 512).check(Size(512, 520), rows=2)


def test_without_widths_in_the_config_no_size_is_refused_for_memory() -> None:
    limit({}, 64, 4 * GB).check(Size(1024, 1024), rows=64)


def test_a_size_beyond_the_limit_is_refused_before_anything_is_compiled(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an engine was asked for")

    monkeypatch.setattr(engines_of_bundles, "open_verified", refuse)
    huge = Request("x", size=Size(16384, 16384), sampling=Sampling(steps=1))
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipe:
        with pytest.raises(InputError, match=r"^size: expected at most .*got 16384x16384"):
            pipe.run(huge)
        with pipe.batcher() as batcher, pytest.raises(InputError, match=r"^size: "):
            batcher.submit(huge)
    with (
        Pipeline.open(bundle("heads"), engine="onnxruntime", max_pixels=64 * 64) as pipe,
        pytest.raises(InputError, match=r"at most 64x64 pixels \(max_pixels is 4096\), got 64x72"),
    ):
        pipe.run(Request("x", size=Size(64, 72)))


@pytest.mark.parametrize("field", ["max_pixels", "max_engines"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "9", True])
def test_limits_are_integers_of_at_least_one(
    bundle: Callable[[str], Path], field: str, value: object
) -> None:
    with pytest.raises(InputError, match=f"^{field}: expected an integer of at least 1"):
        Pipeline.open(bundle("heads"), **{field: value})  # pyright: ignore[reportArgumentType]


def test_the_limit_knows_a_real_manifest(bundle: Callable[[str], Path]) -> None:
    real = Bundle.open(bundle("shapes")).manifest
    bound = SizeLimit(real, None, 24 * GB, whole_attention=True)
    bound.check(Size(1024, 1024), rows=2)
    # 16 times 128x128 is less than the 1024x1024 that any checkpoint may draw.
    with pytest.raises(InputError, match="at most 1024x1024"):
        bound.check(Size(1032, 1024), rows=2)
    small = replace(bound, memory=10**8)
    with pytest.raises(InputError):
        small.check(Size(1024, 1024), rows=2)
