"""Percentiles, when measuring ends, and what two sets of runs say of each other."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable

import numpy as np
import pytest

from latentrt.benchmarks.latency.samples import Samples, until_settled
from latentrt.benchmarks.latency.verdict import Verdict, verdicts


def test_percentiles_are_between_the_two_nearest_runs() -> None:
    # Two pictures, of which the percentiles know nothing.
    runs = Samples(((4.0, 1.0, 3.0), (2.0, 5.0)))
    # The standard library's own, which has other names for them.
    inclusive = statistics.quantiles(runs.seconds, n=100, method="inclusive")
    for percent in (50, 90, 99):
        assert runs.percentile(percent) == pytest.approx(inclusive[percent - 1], abs=1e-12)
    assert (runs.to_json()["count"], runs.to_json()["pictures"]) == (5, 2)


@pytest.mark.parametrize(
    ("count", "last", "stable"),
    [(20, 1.0, True), (19, 1.0, False), (20, 1.019, True), (20, 1.021, False)],
)
def test_a_row_is_stable_when_there_are_enough_pictures_and_the_last_five_agree(
    count: int, last: float, stable: bool
) -> None:
    assert Samples((*((1.0,),) * (count - 1), (last,))).stable is stable


def test_a_row_that_had_settled_stays_so_while_others_settle() -> None:
    assert Samples((*((1.0,),) * 20, (2.0,), (1.0,))).stable
    # The five that agree are the 15th to 19th.
    early = (*((2.0,), (1.0,)) * 7, *((1.0,),) * 5, (2.0,), (1.0,))
    assert not Samples(early).stable


def test_the_steps_of_one_picture_do_not_make_a_row_stable() -> None:
    assert not Samples(((1.0,) * 400,)).stable
    assert Samples(((1.0,) * 20,) * 20).stable


def test_pictures_agree_by_their_medians_however_their_calls_differ() -> None:
    # Two texts a picture, the second cheaper: 1.5 s in the middle of each.
    assert Samples(((2.0, 1.0),) * 20).stable
    assert not Samples((*((2.0, 1.0),) * 19, (2.0, 1.2))).stable


def test_drawing_goes_on_until_the_last_five_pictures_of_every_row_agree() -> None:
    # The whole picture agrees from the fifth on, a part of it only in the last five.
    parts = iter([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 3.0, *(1.0,) * 9])
    found = until_settled(lambda: (4.0, next(parts)), least=5, limit=1e9)
    assert [part for _, part in found] == [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 3.0, *(1.0,) * 5]


def test_drawing_ends_when_every_row_has_had_its_moment_though_not_the_same() -> None:
    # The whole picture agrees up to the sixth, a part of it in the eighth to twelfth.
    wholes = iter([*(1.0,) * 6, *(2.0, 3.0) * 9])
    parts = iter([*(1.0, 2.0) * 3, 3.0, *(1.0,) * 9])
    found = until_settled(lambda: (next(wholes), next(parts)), least=6, limit=1e9)
    assert len(found) == 12


def test_drawing_ends_at_its_limit_but_never_before_the_least_pictures() -> None:
    wandering = itertools.cycle([1.0, 2.0])
    assert len(until_settled(lambda: (next(wandering),), least=8, limit=3.0)) == 8
    wandering = itertools.cycle([1.0, 2.0])
    # 1+2+1+2+1+2+1 = 10, whatever their parts take.
    assert len(until_settled(lambda: (next(wandering), 50.0), least=2, limit=10.0)) == 7


def alone(values: Iterable[float]) -> list[list[float]]:
    """Runs of one value each."""
    return [[float(value)] for value in values]


STUDENT = 2.776
"""Student's t of 4 degrees of freedom, 97.5 %, as every table has it."""
FEW = 2.0
"""How far the spread of five blocks may be from that of many: of the square root of chi-square by
its 4 degrees of freedom, 95 % lie between 0.35 and 1.67, of two such in quadrature less far out.
"""


def test_a_ratio_and_its_interval_are_those_of_the_medians() -> None:
    rng = np.random.default_rng(1)
    then, now = (rng.normal(mean, 0.05, 400) for mean in (2.0, 1.0))
    (found,) = verdicts({"step": alone(now)}, {"step": alone(then), "text": [[1.0]]})
    assert found.row == "step"
    assert found.ratio == pytest.approx(np.median(then) / np.median(now))
    # The standard error of a median of n normal numbers is 1.2533 sigma / sqrt(n); of the ratio,
    # both parts' relative errors in quadrature; as many to either side as Student's t of 5 blocks.
    relative = 1.2533 * 0.05 / 20 * np.hypot(1 / 2.0, 1 / 1.0)
    width = 2 * STUDENT * found.ratio * relative
    assert width / FEW < found.high - found.low < width * FEW
    assert found.low < found.ratio < found.high


def test_of_runs_that_are_like_their_neighbours_less_is_known() -> None:
    rng = np.random.default_rng(4)
    # An autoregression of first order: the variance of a long mean, and nearly that of a median, is
    # (1 + 0.9) / (1 - 0.9) = 19 times that of as many independent numbers of the same spread.
    runs = rng.normal(0.0, 0.05 * np.sqrt(1 - 0.9**2), 4000)
    for number in range(1, len(runs)):
        runs[number] += 0.9 * runs[number - 1]
    then, now = 1.0 + runs.reshape(2, 2000)
    (found,) = verdicts({"picture": alone(now)}, {"picture": alone(then)})
    width = 2 * STUDENT * 1.2533 * 0.05 * np.sqrt(2 / 2000) * np.sqrt(19)
    assert width / FEW < found.high - found.low < width * FEW
    assert found.word in ("same", "unsure")


@pytest.mark.parametrize("more", [26, 29, 283])
def test_one_run_more_is_no_block_more(more: int) -> None:
    rng = np.random.default_rng(6)
    widths: dict[int, list[float]] = {more - more % 5: [], more: []}
    for _ in range(20):
        now, then = np.exp(rng.normal(0.0, 0.05, (2, more)))
        for count, found in widths.items():
            (each,) = verdicts({"step": alone(now[:count])}, {"step": alone(then[:count])})
            found.append(each.high - each.low)
    fewer, many = (np.median(found) for found in widths.values())
    # By Student's t of six blocks they would be a tenth narrower than by that of five, 2.816 to
    # 3.104; by the square root of their number they are; the resamples differ by 3 %.
    assert many / fewer > 0.94 * np.sqrt((more - more % 5) / more)


@pytest.mark.parametrize(("count", "memory"), [(280, 0.95), (60, 0.8), (20, 0.5)])
def test_the_same_thing_measured_twice_is_seldom_called_faster_or_slower(
    count: int, memory: float
) -> None:
    rng = np.random.default_rng(5)
    # Pictures that take as long as the one before did, nearly: 280 of them with 0.95 vary as those
    # of four benchmarks of one build on a shared machine did.
    noise = rng.normal(0.0, 0.05 * np.sqrt(1 - memory**2), (100 + count, 60, 2))
    for number in range(1, len(noise)):
        noise[number] += memory * noise[number - 1]
    pairs = np.exp(noise[100:]).transpose(1, 2, 0)
    words = [
        each.word
        for now, then in pairs
        for each in verdicts({"picture": alone(now)}, {"picture": alone(then)})
    ]
    # 95 % of intervals are to have 1 in them: of 60, more than 8 are without in 0.3 % of all cases.
    assert len(words) - words.count("unsure") - words.count("same") <= 8


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.05, 1.10, "faster"),
        (0.90, 0.95, "slower"),
        (0.99, 1.01, "same"),
        (1.001, 1.015, "same"),
        (0.90, 1.10, "unsure"),
        (1.001, 1.05, "faster"),
        (0.95, 0.999, "slower"),
    ],
)
def test_a_verdict_is_no_surer_than_its_interval(low: float, high: float, word: str) -> None:
    assert Verdict("step", (low + high) / 2, low, high, 6).word == word
    assert Verdict("step", 1.0, low, high, 6).to_json()["word"] == word


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.77, 0.95, "unsure"),
        (0.70, 0.79, "slower"),
        (1.05, 1.20, "unsure"),
        (1.26, 1.40, "faster"),
        (0.99, 1.01, "same"),
    ],
)
def test_of_what_had_not_settled_only_more_than_its_spread_is_sure(
    low: float, high: float, word: str
) -> None:
    assert Verdict("step", 1.0, low, high, 20, stable=False, spread=1.25).word == word


def test_a_spread_is_how_far_a_tenth_of_the_runs_is_from_the_median() -> None:
    # Their percentiles are 110, 150 and 190; 150 is farther from 110 than 190 from 150.
    then, now = alone(range(100, 201)), alone([150.0] * 101)
    for pair in ((then, now), (now, then)):
        (found,) = verdicts({"step": pair[0]}, {"step": pair[1]}, unstable={"step"})
        assert (found.spread, found.stable) == (pytest.approx(150 / 110), False)


def test_the_same_runs_are_the_same() -> None:
    runs = alone(np.random.default_rng(2).normal(1.0, 0.001, 50))
    (found,) = verdicts({"picture": runs}, {"picture": runs})
    assert (found.ratio, found.word) == (1.0, "same")


@pytest.mark.parametrize(
    ("now", "then", "word", "remarks"),
    [
        (1, 1, "unsure", "unsure, 1 run"),
        (5, 100, "unsure", "unsure, 5 runs"),
        (100, 5, "unsure", "unsure, 5 runs"),
        (6, 6, "faster", "faster"),
    ],
)
def test_a_few_runs_are_never_surely_faster(now: int, then: int, word: str, remarks: str) -> None:
    # Equal runs, so that the interval has no width, and one half of the other.
    (found,) = verdicts({"served": [[1.0]] * now}, {"served": [[2.0]] * then})
    assert (found.ratio, found.low, found.high) == (2.0, 2.0, 2.0)
    assert (found.word, found.remarks, found.runs) == (word, remarks, min(now, then))


def test_the_steps_of_one_picture_say_no_more_than_the_picture() -> None:
    rng = np.random.default_rng(3)
    pictures = [rng.normal(1.0, 0.05, 100) for _ in range(2)]
    # Twenty steps of each, all of them as slow as the picture's moment is.
    now, then = ({"step": np.repeat(p, 20).reshape(100, 20).tolist()} for p in pictures)
    found = {each.row: each for each in verdicts(now, then)}
    # As above: the relative errors of two medians of 100 normal numbers; were the 2000 steps
    # independent, the interval would be 4.5 times narrower.
    relative = 1.2533 * 0.05 / 10 * np.hypot(1.0, 1.0)
    width = 2 * STUDENT * found["step"].ratio * relative
    assert width / FEW < found["step"].high - found["step"].low < width * FEW
    assert found["step"].runs == 100


def test_two_thousand_steps_of_five_pictures_are_five_runs() -> None:
    now, then = ({"step": [[s] * 400] * 5} for s in (1.0, 2.0))
    assert {each.word for each in verdicts(now, then)} == {"unsure"}
