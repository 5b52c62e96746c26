"""Step-level batching over real engines: what a request gets alone and among others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.toy_model import equal

from latentrt.runtime import Pipeline, Request, Sampling
from latentrt.runtime.schedules import CATALOGUE


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def pipeline(bundle: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    with Pipeline.open(bundle("shapes"), engine=request.param) as opened:
        yield opened


def drawings(count: int) -> list[Request]:
    names = itertools.cycle(name for name in CATALOGUE if not name.startswith("edm"))
    colours = itertools.cycle(("red", "green", "blue", "yellow"))
    return [
        Request(
            f"a {next(colours)} circle on a white background",
            seed=i,
            sampling=Sampling(next(names), steps=4 + i % 2),
            guidance=(1.0, 4.0, 6.5)[i % 3],
        )
        for i in range(count)
    ]


def test_real_engines_give_the_same_bits_in_a_batch_and_alone(pipeline: Pipeline) -> None:
    requests = drawings(32)
    with pipeline.batcher(batch_sizes=(8,)) as batcher:
        alone = [batcher.submit(each).result() for each in requests]
        runs = [batcher.submit(each) for each in requests]
        together = [run.result() for run in runs]
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


def test_batch_sizes_change_a_picture_by_rounding_only(pipeline: Pipeline) -> None:
    # Engines may add up in another order at another batch size: 1e-6 a call on these graphs, some
    # ten calls, and guidance multiplies by up to 6.
    requests = drawings(8)
    with pipeline.batcher(max_batch=4) as batcher:
        runs = [batcher.submit(each) for each in requests]
        together = [run.result() for run in runs]
    for each, found in zip(requests, together, strict=True):
        direct = pipeline(each).latents
        assert np.linalg.norm(found.latents - direct) <= 1e-4 * np.linalg.norm(direct)
