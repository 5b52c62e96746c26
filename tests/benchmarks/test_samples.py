"""Samples and ratios: percentiles by NumPy's definition, and what is called the same."""

from __future__ import annotations

import pytest

from latentrt.benchmarks.samples import Ratio, Samples


def test_percentiles_lie_linearly_between_the_two_nearest_samples() -> None:
    samples = Samples.of([4.0, 1.0, 3.0, 2.0, 5.0])
    # Of five samples the 10th percentile is 0.4 of the way from the first to the second.
    value = samples.to_json()
    assert [value[name] for name in ("n", "median", "p10", "p90")] == [5, 3.0, 1.4, 4.6]
    assert value["seconds"] == [4.0, 1.0, 3.0, 2.0, 5.0]
    assert Samples.from_json(value) == samples


@pytest.mark.parametrize("seconds", [[], [0.0], [1.0, -1.0]])
def test_samples_that_are_missing_or_not_positive_are_refused(seconds: list[float]) -> None:
    with pytest.raises(ValueError, match="not above 0"):
        Samples.from_json({"seconds": seconds})


@pytest.mark.parametrize(
    ("reference", "other", "median", "verdict"),
    [
        ([2.0, 2.1, 2.2], [1.0, 1.05, 1.1], 2.0, "faster"),
        ([1.0, 1.05, 1.1], [2.0, 2.1, 2.2], 0.5, "slower"),
        # 2 % apart, however narrow the quartiles are.
        ([1.02, 1.02, 1.02], [1.0, 1.0, 1.0], 1.02, "the same"),
        ([1.04, 1.04, 1.04], [1.0, 1.0, 1.0], 1.04, "faster"),
        # Half as slow by the median, but the quartiles 1.0 to 2.0 and 1.5 to 2.5 overlap.
        ([1.0, 1.0, 1.5, 2.0, 2.0], [1.5, 1.5, 2.0, 2.5, 2.5], 0.75, "the same"),
    ],
)
def test_a_ratio_is_the_same_within_three_per_cent_or_where_quartiles_overlap(
    reference: list[float], other: list[float], median: float, verdict: str
) -> None:
    ratio = Ratio.of(Samples.of(reference), Samples.of(other))
    assert ratio.median == pytest.approx(median)
    assert ratio.verdict == verdict
    assert ratio.low <= ratio.median <= ratio.high
