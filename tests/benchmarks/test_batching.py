"""The benchmark of batching: what it counts. Its times are nobody's claim here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latentrt.benchmarks.batching import measure
from latentrt.runtime import Pipeline, Request, Sampling


def test_goodput_is_measured_for_one_at_a_time_and_every_batch(
    bundle: Callable[[str], Path],
) -> None:
    sampling = Sampling("euler", steps=3)
    requests = [Request("a", seed=i, sampling=sampling, guidance=5.0) for i in range(4)]
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        rows = measure(pipeline, requests, (1, 2), repeats=2)
    assert [row.batch for row in rows] == [None, 1, 2]
    assert rows[0].ratio == 1.0
    for row in rows:
        assert 0.0 < row.least <= row.median <= row.greatest
        assert row.ratio == pytest.approx(row.median / rows[0].median)
    # Four pictures of three guided steps: 24 rows, each alone, or two by two.
    assert (rows[1].calls, rows[1].filled) == (24, 1.0)
    assert rows[2].calls == 12
