"""latentrt beside other libraries: one image, drawn by all of them in rounds.

Everybody has the same checkpoint, prompt, noise, steps, size and guidance, and a process of its
own.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.narration import Say, say
from latentrt.benchmarks.peers.participants import Settings, participants
from latentrt.benchmarks.peers.registry import missing, selected
from latentrt.benchmarks.peers.results import Results
from latentrt.benchmarks.peers.rounds import draw_in_rounds
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, Unavailable
from latentrt.bundle.manifest import STABLE_DIFFUSION
from latentrt.engines.memory import available_memory
from latentrt.runtime.schedules.classes import EDM_CLASSES

# The most that was seen at SD 1.5's size, of PyTorch compiled in fp32: a multiple of the weights,
# and these bytes beside them.
_TIMES_WEIGHTS: Final = 2.6
_BESIDE_WEIGHTS: Final = 0.7e9


def measure(
    bundle: Path,
    checkpoint: Path,
    settings: Settings,
    names: Sequence[str] | None = None,
    *,
    rounds: int = 10,
    at_once: int | None = None,
    folder: Path = Path("build/peers"),
    say: Say = say,
) -> Results:
    """A bundle, by a fixed set of engines, beside the peers of these names, by default all.

    `checkpoint` is the diffusers folder that the bundle was exported from. What peers make of it is
    kept in `folder`. `at_once` limits the processes in memory together, by default to what memory
    has room for. Raises what `check` raises, and `EngineError` where the reference fails.
    """
    check(bundle, checkpoint, names, device=settings.device, rounds=rounds, at_once=at_once)
    opened = Bundle.open(bundle)
    source = Path(opened.manifest.source.replace(":", "-")).name
    with tempfile.TemporaryDirectory(prefix="latentrt-peers-") as scratch:
        latents = Path(scratch) / "latents.npy"
        np.save(latents, settings.noise(opened))
        peers = selected(names, settings.device)
        spec = settings.spec(checkpoint, latents)
        able, absent = participants(bundle, peers, spec, folder / source, say)
        rows, groups, busy, interrupted = draw_in_rounds(
            able[0],
            able[1:],
            rounds=rounds,
            at_once=at_once or processes_at_once(checkpoint),
            folder=Path(scratch),
            say=say,
        )
    return Results(
        reference=able[0].name,
        rows=(*rows, *absent),
        groups=groups,
        rounds=rounds,
        settings=settings.to_json(),
        source=opened.manifest.source,
        machine=Machine.here().to_json(),
        busy=statistics.fmean(busy) if busy else None,
        interrupted=interrupted,
    )


def check(
    bundle: Path,
    checkpoint: Path,
    names: Sequence[str] | None = None,
    *,
    device: str = "cpu",
    rounds: int = 10,
    at_once: int | None = None,
) -> None:
    """Check everything before a measurement that takes minutes.

    Raises `InputError` for a number that is too small, an unknown peer, or a checkpoint that peers
    cannot load. Raises `BundleError`, and `Unavailable` where the reference is not installed.
    """
    for name, count, least in (("rounds", rounds, 1), ("at_once", at_once, 2)):
        if count is not None and count < least:
            raise InputError(name, f"at least {least}", count)
    reference, *_ = selected(names, device)
    opened = Bundle.open(bundle)
    family, scheduler = opened.manifest.family, opened.scheduler_config().get("_class_name")
    if family != STABLE_DIFFUSION:
        raise InputError(
            "bundle", f"one of the family {STABLE_DIFFUSION}, which peers load", family
        )
    if scheduler in EDM_CLASSES:
        raise InputError("bundle", "one that DDIM samples, as all peers do", f"one of {scheduler}")
    if not (checkpoint / "model_index.json").is_file():
        expected = "the diffusers folder that the bundle was exported from"
        raise InputError("checkpoint", expected, checkpoint)
    lacks = missing(reference)
    if lacks is not None:
        raise Unavailable(f"{reference.name}, the reference: {lacks}")


def processes_at_once(checkpoint: Path) -> int:
    """How many processes memory has room for, two at the least."""
    free = available_memory()
    weights = sum(path.stat().st_size for path in checkpoint.glob("*/*.safetensors"))
    need = _BESIDE_WEIGHTS + _TIMES_WEIGHTS * weights
    return 2 if free is None else max(2, int(free / need))
