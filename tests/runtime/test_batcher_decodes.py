"""Latents on their way to pictures, and previews."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.runtime.toy_model import Gate, ToyPipeline, request

from latentrt.runtime import Batcher, Pipeline, Request, Sampling, Size


def test_decoding_does_not_hold_up_the_steps_of_others() -> None:
    gate = Gate()
    model = ToyPipeline(before_decode=gate)
    with Batcher(model) as batcher:
        short, long = batcher.submit(request(1, 1)), batcher.submit(request(2, 9))
        gate.arrived()
        last = next(step for step in long if step.index == 8)
        assert last.total == 9
        assert not short.future.done()
        gate.open()
        assert len(short.result().images) == len(long.result().images) == 1


def test_latents_are_decoded_together_where_that_is_asked_for() -> None:
    gate = Gate()
    model = ToyPipeline(before_decode=gate)
    with Batcher(model, decode_sizes=(1, 4)) as batcher:
        runs = [batcher.submit(request(1, 1))]
        gate.arrived()
        runs += [batcher.submit(request(i, 1)) for i in (2, 3, 4)]
        while batcher.load.latents < 3:
            time.sleep(0.001)
        gate.open()
        for run in runs:
            run.result()
        assert batcher.load.decodes == len(model.decodes)
    assert model.decodes == [1, 4]


def test_latents_of_two_sizes_are_not_decoded_together() -> None:
    gate = Gate()
    model = ToyPipeline(before_decode=gate)
    with Batcher(model, decode_sizes=(4,)) as batcher:
        sizes = [Size(64, 48), Size(64, 48), Size(48, 64)]
        runs = [batcher.submit(request(9, 1, size=sizes[0]))]
        gate.arrived()
        runs += [batcher.submit(request(i + 1, 1, size=size)) for i, size in enumerate(sizes)]
        while batcher.load.latents < 3:
            time.sleep(0.001)
        gate.open()
        found = [run.result().images[0].size for run in runs]
    assert found == [(64, 48), (64, 48), (64, 48), (48, 64)]


def test_a_preview_is_its_estimate_decoded_at_a_compiled_size() -> None:
    model = ToyPipeline()
    with Batcher(model, decode_sizes=(2, 4)) as batcher:
        run = batcher.submit(request(1))
        run.result()
        step = next(iter(run))
        found = np.asarray(step.preview(), np.float64)
    pixels = np.tanh(step.denoised[:3].astype(np.float64)).repeat(8, axis=1).repeat(8, axis=2)
    # Half a level of rounding; float32 adds less than a thousandth of one.
    assert np.abs(found - (pixels.transpose(1, 2, 0) + 1) * 127.5).max() <= 0.501
    assert model.decodes == [2, 2]


def test_nothing_is_compiled_after_submission_not_even_for_a_preview(
    bundle: Callable[[str], Path],
) -> None:
    ordered = Request("a red circle", seed=5, sampling=Sampling("euler", steps=2))
    with (
        Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline,
        pipeline.batcher(batch_sizes=(2,), decode_sizes=(2,)) as batcher,
    ):
        run = batcher.submit(ordered)
        compiled = pipeline.compiled
        result = run.result()
        preview = next(iter(run)).preview()
        assert pipeline.compiled == compiled
    # Euler steps to sigma 0 from the last estimate, so that estimate is the picture.
    difference = np.asarray(preview, int) - np.asarray(result.images[0], int)
    assert np.abs(difference).max() <= 1
