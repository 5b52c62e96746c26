"""Images drawn in rounds: every library has a turn in each, so that a slow minute meets all.

As many libraries as memory has room for run together, in processes of their own; the reference is
in every such group.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.machine import busy
from latentrt.benchmarks.narration import Say
from latentrt.benchmarks.peers.participants import Participant
from latentrt.benchmarks.peers.results import PeerResult, medians
from latentrt.benchmarks.process import Process
from latentrt.benchmarks.samples import Ratio, Samples
from latentrt.bundle.errors import EngineError
from latentrt.bundle.golden import psnr

# Threads of the previous turn that spin-wait for work go to sleep within this many seconds.
_PAUSE: Final = 0.3
# Seconds of a turn: after the first images, caches are no longer cold from others' turns.
_TURN: Final = 3.0


@dataclass(slots=True)
class _Turns:
    """What one library has drawn in one group: the median image of each turn."""

    participant: Participant
    process: Process
    start: float
    first: Mapping[str, Any]
    images: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])

    @property
    def seconds(self) -> list[float]:
        return [image["seconds"] for image in self.images]

    def result(self, reference: _Turns, decibels: float | None) -> PeerResult:
        samples = Samples.of(self.seconds)
        peaks = [image["rss_peak"] for image in self.images if image["rss_peak"]]
        return PeerResult(
            self.participant.name,
            self.participant.precision,
            samples=samples,
            ratio=Ratio.of(Samples.of(reference.seconds), samples),
            stages=medians([image["stages"] for image in self.images], self.seconds),
            start=self.start,
            memory=max(peaks, default=None),
            psnr=decibels,
            settings=self.first["settings"],
            versions=self.first["versions"],
        )


def draw_in_rounds(
    reference: Participant,
    others: Sequence[Participant],
    *,
    rounds: int,
    at_once: int,
    folder: Path,
    say: Say,
) -> tuple[list[PeerResult], tuple[tuple[str, ...], ...], list[float], bool]:
    """Results, the reference's first; groups; the share of busy cores in each round; interrupted.

    At most `at_once` processes run together, the reference among them. A round does not count
    before the first of `rounds`. A library that fails is a result with its problem. Ctrl-C after
    the first group ends the measurement. Raises `EngineError` where the reference fails.
    """
    many = max(1, at_once - 1)
    groups = [list(others[i : i + many]) for i in range(0, len(others), many)] or [[]]
    found: dict[str, PeerResult] = {}
    shares: list[float] = []
    interrupted = False
    for number, group in enumerate(groups):
        say(f"group {number + 1} of {len(groups)}")
        try:
            results, busy_shares = _group([reference, *group], rounds, folder, say)
        except KeyboardInterrupt:
            if not found:
                raise
            interrupted = True
            break
        shares += busy_shares
        for each in results:
            found[each.name] = _joined(found.get(each.name), each)
    skipped = [
        PeerResult(each.name, each.precision, problem="interrupted")
        for each in others
        if each.name not in found
    ]
    names = tuple((reference.name, *(each.name for each in group)) for group in groups)
    return [*found.values(), *skipped], names, shares, interrupted


def _group(
    group: Sequence[Participant], rounds: int, folder: Path, say: Say
) -> tuple[list[PeerResult], list[float]]:
    failed: dict[str, PeerResult] = {}
    shares: list[float] = []

    def fail(each: Participant, error: EngineError) -> None:
        if each is group[0]:
            raise EngineError(f"the reference failed: {error}") from error
        say(f"  {error}")
        failed[each.name] = PeerResult(each.name, each.precision, problem=str(error))

    with ExitStack() as stack:
        turns: list[_Turns] = []
        for each in group:
            begun = time.perf_counter()
            try:
                process = Process(each.name, each.arguments(folder), environment=each.variables)
                first = stack.enter_context(process).answer()
            except EngineError as error:
                fail(each, error)
                continue
            turns.append(_Turns(each, process, time.perf_counter() - begun, first))
            say(f"  {each.name}: ready in {turns[-1].start:.1f} s")
        for number in range(rounds + 1):
            time.sleep(_PAUSE)
            share = busy(_PAUSE)
            shares += [] if share is None else [share]
            # Who goes first changes.
            for each in turns if number % 2 else turns[::-1]:
                time.sleep(_PAUSE)
                try:
                    image = _turn(each.process)
                except EngineError as error:
                    fail(each.participant, error)
                    continue
                if number:
                    each.images.append(image)
            turns = [each for each in turns if each.participant.name not in failed]
            say(f"  round {number} of {rounds}" if number else "  warm-up")
        expected = _saved(turns[0].process, folder)
        results: list[PeerResult] = []
        for each in turns:
            try:
                decibels = _decibels(_saved(each.process, folder), expected)
                results.append(each.result(turns[0], decibels))
            except EngineError as error:
                fail(each.participant, error)
    return [*results, *failed.values()], shares


def _joined(before: PeerResult | None, now: PeerResult) -> PeerResult:
    """The reference's result over all groups so far; anybody else is in one group."""
    if before is None or before.samples is None or now.samples is None:
        return now
    return replace(before, samples=Samples.of((*before.samples.seconds, *now.samples.seconds)))


def _turn(process: Process) -> dict[str, Any]:
    """The median image of a turn's second half."""
    images: list[dict[str, Any]] = []
    while sum(image["seconds"] for image in images) < _TURN or not images:
        images.append(process.ask("go"))
    half = sorted(images[len(images) // 2 :], key=lambda image: image["seconds"])
    return half[(len(half) - 1) // 2]


def _saved(process: Process, folder: Path) -> NDArray[np.float32]:
    """The last image, float32 [1, 3, height, width] in [-1, 1]."""
    path = folder / f"{process.name}.npy"
    process.ask(f"save {path}")
    return np.load(path)


def _decibels(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float | None:
    if actual.shape != expected.shape:
        raise EngineError(f"an image of shape {actual.shape}, the reference's is {expected.shape}")
    if not np.isfinite(actual).all():
        raise EngineError("an image that is not finite")
    return None if np.array_equal(actual, expected) else psnr(actual, expected, peak=2.0)
