"""latentrt beside other libraries: one picture, drawn by everybody in turns.

    python -m latentrt.benchmarks.peers.contest --bundle B --checkpoint C --size 128x128 --steps 20

Everybody has the same checkpoint, prompt, noise, steps, size and guidance, and a process of their
own. A peer that is not installed is named with the command that installs it, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from latentrt.benchmarks.machine import Machine, busy, load
from latentrt.benchmarks.narration import Say, say
from latentrt.benchmarks.peers.alone import seconds_alone
from latentrt.benchmarks.peers.checkpoint_folder import check_source, checkpoint_folder
from latentrt.benchmarks.peers.duels import duels
from latentrt.benchmarks.peers.lineup import Settings, chosen, line_up, noise
from latentrt.benchmarks.peers.peer_process import Contestant
from latentrt.benchmarks.peers.peers import REFERENCE, missing
from latentrt.benchmarks.peers.standings import Standings
from latentrt.benchmarks.peers.turns import Alone, in_turns
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, LatentrtError, Unavailable
from latentrt.bundle.manifest import STABLE_DIFFUSION
from latentrt.bundle.publish import write_file
from latentrt.engines.memory import available_memory
from latentrt.runtime import Size
from latentrt.runtime.schedules.classes import EDM_CLASSES
from latentrt.weights.checkpoint import Checkpoint

# Until the threads of what we ourselves ran before, such as exporters, are gone.
_SETTLE: Final = 1.0
# What the hungriest, PyTorch compiled in fp32, was seen to need at SD 1.5's size: the weights in
# float32 so many times, and this beside them.
_TIMES_WEIGHTS: Final = 2.6
_BESIDE_WEIGHTS: Final = 0.7e9
_INTERRUPTED: Final = 130
_MODELS: Final = ("text_encoder", "unet", "vae")


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
    say: Say = say,
) -> Standings:
    """A bundle by a fixed set of engines beside the peers of these names, or all of the device's.

    `checkpoint` is the diffusers folder, or `random:` name, that the bundle was exported from; it
    may be left out where the bundle says so itself. What peers make of it is kept in `folder`. By
    default as many are in memory `at_once` as it bears. With `alone`, each peer's own script draws
    so many pictures by itself after each of its turns. Whom memory kept from its best peer meets it
    in a duel afterwards. An interrupt ends it with what is there, once there is something. Raises
    what `check` raises, and `EngineError` where the reference fails.
    """
    check(
        bundle,
        checkpoint,
        names,
        device=settings.device,
        rounds=rounds,
        warmups=warmups,
        at_once=at_once,
        alone=alone,
    )
    before = load()
    opened = Bundle.open(bundle)
    source = Path(opened.manifest.source.replace(":", "-")).name
    files = checkpoint_folder(checkpoint or bundle, folder / source / "checkpoint")
    with tempfile.TemporaryDirectory(prefix="latentrt-contest-") as scratch:
        latents = Path(scratch) / "latents.npy"
        np.save(latents, noise(opened, settings))
        spec = settings.spec(files, latents)
        peers = chosen(names, settings.device)
        lineup = line_up(bundle, peers, spec, folder / source, say)
        time.sleep(_SETTLE)
        others_at_work = busy()
        reference, *others = lineup.contestants
        held = in_turns(
            reference,
            others,
            rounds=rounds,
            warmups=warmups,
            at_once=bearable(files, alone) if at_once is None else at_once,
            scratch=Path(scratch),
            say=say,
            alone=_by_itself(lineup.peers, alone, Path(scratch)),
        )
        standings = Standings(
            reference=reference.name,
            rows=(*held.rows, *lineup.absent),
            groups=held.groups,
            rounds=rounds,
            warmups=warmups,
            settings=settings.to_json(),
            source=opened.manifest.source,
            machine=Machine.here().to_json(),
            load={"before": before},
            busy=_mean((others_at_work, *held.busy)),
            interrupted=held.interrupted,
        )
        if not held.interrupted:
            standings = duels(standings, lineup.contestants, Path(scratch), say)
    return replace(standings, load={"before": before, "after": load()})


def check(
    bundle: Path,
    checkpoint: Path | str | None,
    names: Sequence[str] | None = None,
    *,
    device: str = "cpu",
    rounds: int = 10,
    warmups: int = 2,
    at_once: int | None = None,
    alone: int = 0,
) -> None:
    """Whether `against` can begin with these, before anything is measured or made.

    Raises `InputError` for a count that is too small, for a name that is no peer's of the device,
    for a bundle of a family that peers' scripts do not load and for a checkpoint that cannot be
    had, `BundleError` for no bundle, `Unavailable` where the reference is missing.
    """
    least = (("rounds", rounds, 1), ("warmups", warmups, 0), ("at_once", at_once, 2))
    for field, count, fewest in (*least, ("alone", alone, 0)):
        if count is not None and count < fewest:
            raise InputError(field, f"at least {fewest}", count)
    reference, *_ = chosen(names, device)
    opened = Bundle.open(bundle)
    family, scheduler = opened.manifest.family, opened.scheduler_config().get("_class_name")
    if family != STABLE_DIFFUSION:
        expected = f"one of the family {STABLE_DIFFUSION}, which peers load"
        raise InputError("bundle", expected, family)
    if scheduler in EDM_CLASSES:
        raise InputError("bundle", "one that DDIM draws, as all peers do", f"one for {scheduler}")
    check_source(checkpoint or bundle)
    lacks = missing(reference)
    if lacks is not None:
        raise Unavailable(f"{reference.name}, the reference: {lacks}")


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return statistics.fmean(known) if known else None


def _by_itself(peers: Sequence[Contestant], runs: int, scratch: Path) -> Alone:
    """The scripts of these, so many pictures each; nobody's for none."""
    names = {peer.name for peer in peers} if runs else set[str]()
    return lambda one: seconds_alone(one, runs, scratch) if one.name in names else None


def float32_bytes(checkpoint: Path) -> int:
    """What the models of a diffusers folder take in float32, whatever they are stored in."""
    parts = [Checkpoint.open(checkpoint).tensors(part) for part in _MODELS]
    return sum(4 * math.prod(part.entry(name).shape) for part in parts for name in part)


def bearable(checkpoint: Path, alone: int) -> int:
    """How many contestants memory has room for, two at the least; a script takes a place too."""
    free = available_memory()
    if free is None:
        return 2
    places = int(free / (_BESIDE_WEIGHTS + _TIMES_WEIGHTS * float32_bytes(checkpoint)))
    return max(2, places - 1 if alone else places)


def main() -> None:
    """Hold the contest, print the table, and write JSON where asked; status 130: interrupted."""
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
    parser.add_argument(
        "--alone", type=int, default=0, help="pictures of each peer's own script a turn"
    )
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="of their models")
    parser.add_argument("--json", type=Path, help="write the standings here")
    options = parser.parse_args()
    try:
        standings = _held(options)
        print(standings)
        if options.json is not None:
            write_file(options.json, (json.dumps(standings.to_json(), indent=1) + "\n").encode())
    except LatentrtError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    if standings.interrupted:
        sys.exit(_INTERRUPTED)


def _held(options: argparse.Namespace) -> Standings:
    settings = Settings(
        Size.parse(options.size),
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        sampler=options.sampler,
        threads=options.threads,
        device=options.device,
    )
    return against(
        options.bundle,
        options.checkpoint,
        settings,
        options.against,
        rounds=options.rounds,
        warmups=options.warmups,
        at_once=options.at_once,
        alone=options.alone,
        folder=options.folder,
    )


if __name__ == "__main__":
    main()
