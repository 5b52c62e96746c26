"""Two benchmarks of one thing: how many times as fast, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.latency.goodput import Curve
from latentrt.benchmarks.ratio import ENOUGH

_RESAMPLES: Final = 10_000
_AT_ONCE: Final = 500
"""Resamples that are in memory together."""
_BLOCKS: Final = 5
"""Parts of a benchmark that are resampled whole, at the least: a machine's slow half minute lasts
for many runs, and parts that are shorter are too much alike to say how far off another would be.
"""
_STUDENT: Final = (2.776, 2.571, 2.447, 2.365, 2.306)
"""Student's t of 5 blocks and more, which 2.5 % of all cases are above."""
SMALLEST: Final = 0.02
"""Changes that are surely below this are called the same."""

Word = Literal["faster", "slower", "same", "unsure"]
Runs = Mapping[str, Sequence[Sequence[float]]]
"""Seconds by row and run: a picture is one run of all its steps. A row's runs are equally long."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of now beside the same row of then.

    `ratio` is then's median over now's, of goodputs now's over then's, above 1 where now is faster;
    with 95 % it lies from `low` to `high`, by the bootstrap: what is another from process to
    process or from hour to hour, and not within one benchmark, is not in that. `runs` are those of
    the benchmark that has fewer. `stable` is whether both rows had settled; `spread` is how many
    times as far as its median a tenth of a row's runs is, to either side, of both rows the larger
    number. `bound` says which of
    two goodputs is only a bound, `error` how much farther off a row is that is faster; else both
    are empty.
    """

    row: str
    ratio: float
    low: float
    high: float
    runs: int
    stable: bool = True
    spread: float = 1.0
    bound: str = ""
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "word": self.word}

    @property
    def word(self) -> Word:
        """The same if the interval is within 2 % of 1; unsure if it has 1 in it and is wider.

        Unsure too where either benchmark has fewer than `ENOUGH` runs, or a bound alone. Of a row
        that had not settled the interval has to be beyond its spread: within, it is by itself.
        """
        if self.runs < ENOUGH or self.bound:
            return "unsure"
        if self.low >= 1 - SMALLEST and self.high <= 1 + SMALLEST:
            return "same"
        alone = 1.0 if self.stable else self.spread
        if self.low > alone:
            return "faster"
        return "slower" if self.high < 1 / alone else "unsure"

    @property
    def remarks(self) -> str:
        """The word, and what to hold against it."""
        few = f"{self.runs} run{'s' if self.runs > 1 else ''}" if self.runs < ENOUGH else ""
        unsettled = "" if self.stable else "unstable"
        return ", ".join(filter(None, (self.word, few, unsettled, self.bound, self.error)))


def verdicts(now: Runs, then: Runs, *, unstable: Collection[str] = ()) -> tuple[Verdict, ...]:
    """A verdict for each row that both have, from the seconds of their runs, in now's order.

    `unstable` are the rows that had not settled in either.
    """
    rows = (row for row in now if then.get(row))
    return tuple(_verdict(row, now[row], then[row], row not in unstable) for row in rows)


def goodputs(now: Sequence[Curve], then: Sequence[Curve]) -> tuple[Verdict, ...]:
    """A verdict for each server that both have, a path being a run."""
    before = {curve.server: curve for curve in then}
    return tuple(_goodput(each, before[each.server]) for each in now if each.server in before)


def _verdict(
    row: str, now: Sequence[Sequence[float]], then: Sequence[Sequence[float]], stable: bool
) -> Verdict:
    rng = np.random.default_rng(0)
    samples = [np.asarray(runs, np.float64) for runs in (then, now)]
    medians = [_medians(sample, rng) for sample in samples]
    ratio = float(np.median(samples[0]) / np.median(samples[1]))
    blocks = min(len(sample) // _length(len(sample)) for sample in samples)
    ends = _ends(medians[0] / medians[1], blocks)
    spread, runs = max(map(_spread, samples)), min(map(len, samples))
    return Verdict(row, ratio, *ends, runs=runs, stable=stable, spread=spread)


def _goodput(now: Curve, then: Curve) -> Verdict:
    rng = np.random.default_rng(0)
    said = {"then": then, "now": now}
    return Verdict(
        f"goodput, {now.server}",
        now.goodput / then.goodput,
        *_ends(now.resampled(rng) / then.resampled(rng), min(now.paths, then.paths)),
        runs=min(now.paths, then.paths),
        bound=", ".join(
            f"{when} {curve.bound} {curve.goodput:.2f} a second"
            for when, curve in said.items()
            if curve.bound
        ),
    )


def _ends(ratios: NDArray[np.float64], blocks: int) -> tuple[float, float]:
    """Where a ratio lies with 95 %, from those of resamples of so many blocks.

    The expanded percentile interval (Hesterberg, What Teachers Should Know About the Bootstrap,
    2015): as much farther out than the percentiles of 2.5 % as Student's t is than the normal
    distribution's; of fewer blocks than 5 the least and the greatest.
    """
    tail = 0.0
    if blocks >= _BLOCKS:
        student = _STUDENT[min(blocks - _BLOCKS, len(_STUDENT) - 1)]
        tail = 100 * NormalDist().cdf(-student * math.sqrt(blocks / (blocks - 1)))
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return float(low), float(high)


def _spread(sample: NDArray[np.float64]) -> float:
    """How many times as long as the median the slowest tenth takes, or it as the fastest."""
    low, middle, high = np.percentile(np.median(sample, axis=1), [10, 50, 90])
    return float(max(high / middle, middle / low))


def _length(runs: int) -> int:
    """Of a block, in runs that follow each other: so many runs are 5 to 9 of them, or fewer."""
    return max(1, runs // _BLOCKS)


def _medians(sample: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of resamples of blocks of runs that follow each other, as many runs as there are.

    The circular block bootstrap (Politis and Romano 1992), for which neighbours may be alike; of
    fewer than ten runs each is a block, which is Efron's of 1979.
    """
    count = len(sample)
    length = _length(count)
    within, starts = np.arange(length), (_AT_ONCE, -(-count // length), 1)
    medians: list[NDArray[np.float64]] = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        picks = (rng.integers(0, count, starts) + within) % count
        picked = sample[picks.reshape(_AT_ONCE, -1)[:, :count]]
        medians.append(np.median(picked.reshape(_AT_ONCE, -1), axis=1))
    return np.concatenate(medians)
