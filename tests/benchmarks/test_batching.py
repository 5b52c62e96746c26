"""The benchmark of batching: what it counts. Its times are nobody's claim here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latentrt.benchmarks.latency.batching import Serving, measure
from latentrt.runtime import Pipeline, Request, Sampling


def test_goodput_is_measured_for_one_at_a_time_and_every_batch(
    bundle: Callable[[str], Path],
) -> None:
    sampling = Sampling("euler", steps=3)
    requests = [Request("a", seed=i, sampling=sampling, guidance=5.0) for i in range(4)]
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        heard: list[tuple[int, int]] = []
        rows = measure(
            pipeline,
            requests,
            (1, 2),
            repeats=2,
            progress=lambda done, total: heard.append((done, total)),
        )
    # Three ways, each three times, of which the first compiles.
    assert heard == [(n, 9) for n in range(10)]
    assert [row.batch for row in rows] == [None, 1, 2]
    assert rows[0].ratio == 1.0
    for row in rows:
        assert 0.0 < row.least <= row.median <= row.greatest
        assert row.ratio == pytest.approx(row.median / rows[0].median)
        # The middle of two repetitions of four pictures.
        assert (row.requests, len(row.seconds)) == (4, 2)
        assert row.median == pytest.approx(2 / sum(row.seconds))
        # Calls of other sizes round otherwise: an error of fp32, and none for what is the same.
        assert row.apart < 1e-4
    assert rows[0].apart == 0.0
    # Four pictures of three guided steps: 24 rows, each alone, or two by two.
    assert (rows[1].calls, rows[1].filled) == (24, 1.0)
    assert rows[2].calls == 12


@pytest.mark.parametrize(
    ("limit", "picture", "rows", "batches", "kept", "requests"),
    [
        # Five ways of 16 pictures, seven times over: 560 pictures.
        (560.0, 1.0, 2, (1, 2, 4, 8), (1, 2, 4, 8), 16),
        # Batch 8 is four guided pictures: of 15 requests the last call is not full, but takes as
        # long as if it were,
        # 7 * (15 + 15 + 15 + 16 + 16) = 539; of 14 it is 7 * (14 + 14 + 14 + 14 + 16) = 504.
        (539.0, 1.0, 2, (1, 2, 4, 8), (1, 2, 4, 8), 15),
        (538.0, 1.0, 2, (1, 2, 4, 8), (1, 2, 4, 8), 14),
        # 7 * 5 * 4 = 140 pictures are the fewest that fill batch 8.
        (140.0, 1.0, 2, (1, 2, 4, 8), (1, 2, 4, 8), 4),
        # Then without it 7 * 4 * 4 = 112; 5 would be 7 * (5 + 5 + 5 + 6) = 147.
        (139.0, 1.0, 2, (1, 2, 4, 8), (1, 2, 4), 4),
        # Batch 1 alone, beside one at a time: 7 * 2 pictures of 10 s.
        (140.0, 10.0, 2, (1, 2, 4, 8), (1,), 1),
        (139.0, 10.0, 2, (1, 2, 4, 8), (), 0),
        # Without guidance batch 8 is eight pictures: 7 * (16 + 16), 7 * (15 + 16), 7 * (8 + 8).
        (224.0, 1.0, 1, (8,), (8,), 16),
        (223.0, 1.0, 1, (8,), (8,), 15),
        (112.0, 1.0, 1, (8,), (8,), 8),
        (111.0, 1.0, 1, (8,), (), 0),
    ],
)
def test_as_much_is_served_together_as_there_is_time_for(
    limit: float,
    picture: float,
    rows: int,
    batches: tuple[int, ...],
    kept: tuple[int, ...],
    requests: int,
) -> None:
    found = Serving.within(limit, picture, rows, batches)
    assert (found.batches, found.requests) == (kept, requests)
    dropped = ", ".join(str(batch) for batch in batches if batch not in kept)
    assert (f"no batch of {dropped}" in found.note) is bool(dropped)
    assert (f"{requests} requests instead of 16" in found.note) is (0 < requests < 16)
    assert (f"to stay within --limit {limit:g}" in found.note) is (requests < 16)
