"""latentrt beside other libraries: one picture, drawn by everybody in turns.

    python -m latentrt.benchmarks.contest --bundle B --checkpoint C --size 128x128 --steps 20

Everybody has the same checkpoint, prompt, noise, steps, size and guidance, and a process of their
own. As many as memory bears are there together and draw one picture each a round, so that a slower
minute of the machine meets all of them; the reference is in every such group. A peer that is not
installed is named with the command that installs it, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.alone import beside_alone
from latentrt.benchmarks.checkpoint_folder import checkpoint_folder
from latentrt.benchmarks.lineup import Say, Settings, chosen, line_up, noise
from latentrt.benchmarks.machine import Machine, load
from latentrt.benchmarks.memory import available
from latentrt.benchmarks.peer_process import Contestant, Lap, PeerProcess, Ready
from latentrt.benchmarks.peers import REFERENCE
from latentrt.benchmarks.standings import Ratio, Row, Standings
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import EngineError, LatentrtError
from latentrt.bundle.golden import psnr
from latentrt.bundle.publish import write_file
from latentrt.runtime import Size

# Idle threads that wait for work by turning in circles give up within this many seconds.
_PAUSE: Final = 0.3
# What the hungriest, PyTorch compiled in fp32, was seen to need at SD 1.5's size: the weights in
# float32 so many times, and this beside them.
_TIMES_WEIGHTS: Final = 2.6
_BESIDE_WEIGHTS: Final = 0.7e9


@dataclass(slots=True)
class _Seen:
    """What was seen of a contestant."""

    contestant: Contestant
    laps: list[Lap] = field(default_factory=list[Lap])
    ratios: list[float] = field(default_factory=list[float])
    ready: Ready | None = None
    psnr: float | None = None
    problem: str = ""

    def row(self) -> Row:
        """As a row of the standings."""
        one, ready = self.contestant, self.ready
        if self.problem or ready is None:
            return Row(one.name, one.precision, problem=self.problem)
        return Row(
            one.name,
            one.precision,
            seconds=tuple(lap.seconds for lap in self.laps),
            ratio=Ratio.of(self.ratios),
            stages=_stages(self.laps),
            start=ready.start,
            first=ready.first,
            rss_peak=max(lap.rss_peak for lap in self.laps),
            psnr=self.psnr,
            settings=ready.settings,
            versions=ready.versions,
        )


def _stages(laps: Sequence[Lap]) -> dict[str, float]:
    """Medians of the parts of a picture, and of what is in none of them."""
    if not laps[0].stages:
        return {}
    parts = {name: statistics.median(lap.stages[name] for lap in laps) for name in laps[0].stages}
    own = statistics.median(lap.seconds - sum(lap.stages.values()) for lap in laps)
    return {**parts, "own": own}


def contest(
    reference: Contestant,
    others: Sequence[Contestant],
    *,
    rounds: int,
    warmups: int,
    at_once: int,
    scratch: Path,
    say: Say,
    pause: float = _PAUSE,
    limit: float = 3600.0,
) -> tuple[tuple[Row, ...], tuple[tuple[str, ...], ...]]:
    """Have everybody draw in turns; their rows, the reference's first, and the groups they were in.

    At most `at_once` are in memory together, the reference always among them; of each group,
    `warmups` rounds are not counted. A contestant that fails, or gives no answer in `limit`
    seconds, is a row with its problem. Raises `EngineError` where the reference fails.
    """
    first = _Seen(reference)
    seen = [_Seen(each) for each in others]
    many = max(1, at_once - 1)
    groups = [seen[i : i + many] for i in range(0, len(seen), many)] or [[]]
    for number, group in enumerate(groups):
        say(f"group {number + 1} of {len(groups)}")
        with ExitStack() as stack:
            turns = _started([first, *group], stack, scratch, limit, say)
            _draw(turns, rounds, warmups, pause, say)
            _compare(turns)
    names = tuple((reference.name, *(each.contestant.name for each in group)) for group in groups)
    return (first.row(), *(each.row() for each in seen)), names


_Turns = list[tuple[_Seen, PeerProcess]]


def _started(
    group: Sequence[_Seen], stack: ExitStack, scratch: Path, limit: float, say: Say
) -> _Turns:
    """Those of a group that drew their first picture, the reference first."""
    turns: _Turns = []
    for each in group:
        try:
            process = stack.enter_context(PeerProcess(each.contestant, scratch, limit=limit))
            each.ready = process.ready()
        except EngineError as error:
            _give_up(each, error, is_reference=each is group[0])
            say(f"  {error}")
            continue
        turns.append((each, process))
        say(f"  {each.contestant.name}: ready in {each.ready.start:.1f} s")
    return turns


def _draw(turns: _Turns, rounds: int, warmups: int, pause: float, say: Say) -> None:
    """Rounds of a picture each; who goes first changes."""
    reference = turns[0][0]
    for number in range(warmups + rounds):
        laps: dict[str, Lap] = {}
        for each, process in list(turns if number % 2 == 0 else reversed(turns)):
            time.sleep(pause)
            try:
                laps[each.contestant.name] = process.go()
            except EngineError as error:
                _give_up(each, error, is_reference=each is reference)
                turns.remove((each, process))
                say(f"  {error}")
        for each, _ in turns if number >= warmups else ():
            lap = laps[each.contestant.name]
            each.laps.append(lap)
            each.ratios.append(laps[reference.contestant.name].seconds / lap.seconds)
        say(f"  round {number + 1} of {warmups + rounds}")


def _compare(turns: _Turns) -> None:
    """The distance of everybody's picture from the reference's."""
    _, process = turns[0]
    expected = process.save()
    for each, process in turns[1:]:
        try:
            each.psnr = _decibels(process.save(), expected)
        except EngineError as error:
            each.problem = str(error)


def _decibels(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float | None:
    if actual.shape != expected.shape:
        raise EngineError(f"a picture of shape {actual.shape}, the reference's is {expected.shape}")
    return None if np.array_equal(actual, expected) else psnr(actual, expected, peak=2.0)


def _give_up(each: _Seen, error: EngineError, *, is_reference: bool) -> None:
    if is_reference:
        raise EngineError(f"the reference of the contest failed: {error}") from error
    each.problem = str(error)


def against(
    bundle: Path,
    checkpoint: Path | str | None,
    settings: Settings,
    names: Sequence[str] | None = None,
    *,
    rounds: int = 10,
    warmups: int = 2,
    at_once: int | None = None,
    alone: int = 0,
    folder: Path = Path("build/peers"),
    say: Say = print,
) -> Standings:
    """A bundle by its engines beside the peers of these names, or all of the device's.

    `checkpoint` is the diffusers folder, or `random:` name, that the bundle was exported from; it
    may be left out where the bundle says so itself. What peers make of it is kept in `folder`. By
    default as many are in memory `at_once` as it bears. With `alone`, each peer's own script draws
    so many pictures by itself afterwards. Raises `InputError` for a name that is no peer's and for
    a checkpoint that cannot be had, `Unavailable` where the reference is missing.
    """
    wanted, before = chosen(names, settings.device), load()
    opened = Bundle.open(bundle)
    source = Path(opened.manifest.source.replace(":", "-")).name
    files = checkpoint_folder(checkpoint or bundle, folder / source / "checkpoint")
    with tempfile.TemporaryDirectory(prefix="latentrt-contest-") as scratch:
        latents = Path(scratch) / "latents.npy"
        np.save(latents, noise(opened, settings))
        spec = settings.spec(files, latents)
        lineup = line_up(bundle, wanted, spec, folder / source, say)
        reference, *others = lineup.contestants
        rows, groups = contest(
            reference,
            others,
            rounds=rounds,
            warmups=warmups,
            at_once=_bearable(files) if at_once is None else at_once,
            scratch=Path(scratch),
            say=say,
        )
        if alone:
            say("each by itself")
            rows = beside_alone(lineup.peers, rows, runs=alone, scratch=Path(scratch), say=say)
    return Standings(
        reference=reference.name,
        rows=(*rows, *lineup.absent),
        groups=groups,
        rounds=rounds,
        warmups=warmups,
        settings=settings.to_json(),
        source=opened.manifest.source,
        machine=Machine.here().to_json(),
        load={"before": before, "after": load()},
    )


def _bearable(checkpoint: Path) -> int:
    """How many contestants memory has room for, two at the least."""
    free = available()
    if free is None:
        return 2
    weights = sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors"))
    return max(2, int(free / (_BESIDE_WEIGHTS + _TIMES_WEIGHTS * weights)))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Hold the contest, print the table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--checkpoint", help="what the bundle is of, unless it is random:")
    parser.add_argument("--against", action="append", help="only this peer; may be repeated")
    parser.add_argument("--size", required=True, help="WIDTHxHEIGHT")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--sampler", default="ddim", choices=("ddim", "euler"))
    parser.add_argument("--device", default="cpu", choices=tuple(REFERENCE))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmups", type=int, default=2)
    parser.add_argument("--at-once", type=int, help="contestants in memory together")
    parser.add_argument("--alone", type=int, default=0, help="pictures of each peer by itself")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="of their models")
    parser.add_argument("--json", type=Path, help="write the standings here")
    options = parser.parse_args()
    settings = Settings(
        Size.parse(options.size),
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        sampler=options.sampler,
        threads=options.threads,
        device=options.device,
    )
    try:
        standings = against(
            options.bundle,
            options.checkpoint,
            settings,
            options.against,
            rounds=options.rounds,
            warmups=options.warmups,
            at_once=options.at_once,
            alone=options.alone,
            folder=options.folder,
            say=_say,
        )
    except LatentrtError as error:
        sys.exit(f"error: {error}")
    print(standings)
    if options.json is not None:
        write_file(options.json, (json.dumps(standings.to_json(), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
