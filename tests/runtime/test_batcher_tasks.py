"""Requests of every kind in one batcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.controlnets import hint_picture, saved_controlnet
from tests.runtime.task_reference import picture

from latentrt.runtime import (
    Control,
    HiresFix,
    ImageToImage,
    Inpainting,
    Pipeline,
    Refiner,
    Request,
    Reuse,
    Sampling,
    Size,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

Folders = Callable[[str], Path]


def kinds(checkpoint: Folders, bundle: Folders, folder: Path) -> dict[str, Request]:
    """One request of each kind, for a tiny model."""
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((16, 16, 47, 47), fill=255)
    controls = [
        Control(saved_controlnet(checkpoint("heads"), folder / f"control-{i}", i), hint_picture())
        for i in range(2)
    ]
    euler = Sampling("euler", steps=3)
    asked = Request("a red circle", seed=4, size=Size(64, 64), sampling=euler)
    return {
        "text": asked,
        "another size and sampler": asked.with_values(
            size=Size(96, 64), sampling=Sampling("ddim", steps=4)
        ),
        "no guidance": asked.with_values(guidance=1.0, sampling=Sampling("heun", steps=2)),
        "image": asked.with_values(task=ImageToImage(picture(), 0.7)),
        "mask": asked.with_values(task=Inpainting(picture(), mask, mask_blur=2)),
        "hires fix": asked.with_values(task=HiresFix(1.5, 0.7, upscaler="lanczos")),
        "one ControlNet": asked.with_values(controls=controls[:1]),
        "two ControlNets": asked.with_values(controls=controls),
        "refiner": asked.with_values(refiner=Refiner(bundle("heads@1"), 0.5)),
        "long prompt that changes": asked.with_values(
            prompt=f"[a:b:0.5] {'star ' * 80} (red:1.3)", subseed=2, subseed_strength=0.3
        ),
    }


def test_forty_requests_of_ten_kinds_draw_what_each_draws_alone(
    checkpoint: Folders, bundle: Folders, tmp_path: Path
) -> None:
    requests = kinds(checkpoint, bundle, tmp_path)
    with (
        Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline,
        pipeline.batcher(batch_sizes=(4,)) as batcher,
    ):
        alone = {
            kind: batcher.submit(each).result().images[0].tobytes()
            for kind, each in requests.items()
        }
        runs = [(kind, batcher.submit(each)) for _ in range(4) for kind, each in requests.items()]
        together = [(kind, run.result().images[0].tobytes()) for kind, run in runs]
    assert [kind for kind, drawn in together if drawn != alone[kind]] == []
    assert len(set(alone.values())) == len(requests)


def test_every_kind_is_drawn_with_fewer_evaluations_as_if_alone(
    checkpoint: Folders, bundle: Folders, tmp_path: Path
) -> None:
    plain = {
        kind: each.with_values(sampling=replace(each.sampling, steps=5))
        for kind, each in kinds(checkpoint, bundle, tmp_path).items()
    }
    reuse = Reuse(threshold=1e9, warm_up=1, last=1)
    asked = {kind: each.with_values(reuse=reuse) for kind, each in plain.items()}
    with (
        Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline,
        pipeline.batcher(batch_sizes=(4,)) as batcher,
    ):
        alone = {kind: batcher.submit(each).result() for kind, each in asked.items()}
        pairs = [(batcher.submit(asked[kind]), batcher.submit(plain[kind])) for kind in asked]
        together = [(a.result(), b.result()) for a, b in pairs]
        off = batcher.submit(plain["mask"].with_values(reuse=Reuse(threshold=0))).result()
    for (kind, expected), (fewer, full) in zip(alone.items(), together, strict=True):
        assert fewer.images[0].tobytes() == expected.images[0].tobytes(), kind
        assert not np.array_equal(fewer.latents, full.latents), kind
    (full_mask,) = (full for kind, (_, full) in zip(asked, together, strict=True) if kind == "mask")
    assert np.array_equal(off.latents, full_mask.latents)
