"""Who takes part in a contest, what they are told, and who cannot."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.narration import Say
from latentrt.benchmarks.peers.peer_process import Contestant
from latentrt.benchmarks.peers.peers import (
    PEERS,
    REFERENCE,
    Peer,
    computed,
    environment,
    find_peer,
    missing,
    prepare,
)
from latentrt.benchmarks.peers.standings import OURS_PREFIX, Row
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import EngineError, InputError
from latentrt.bundle.golden import RUN_PROMPT
from latentrt.engines.registry import backend
from latentrt.runtime import Size
from latentrt.runtime.noise import noise_stream

OURS: Final = {
    "cpu": (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")),
    "cuda": (("onnxruntime-cuda", "fp16"), ("tensorrt", "fp16")),
}
"""Engines and precisions that take part for latentrt where the device computes in them, by device.

Those of "cuda" are unverified.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What everybody draws, and on what: `device` is "cpu" or "cuda".

    `seed` is of the noise; `threads` None leaves their number to each library. The sampler "ddim"
    is the same in all libraries; of "euler", OpenVINO GenAI's has another spacing by default.
    """

    size: Size
    steps: int = 20
    prompt: str = RUN_PROMPT
    negative_prompt: str = ""
    guidance_scale: float = 5.0
    sampler: str = "ddim"
    seed: int = 7
    threads: int | None = None
    device: str = "cpu"

    def spec(self, checkpoint: Path, latents: Path) -> dict[str, Any]:
        """What a contestant's process is told."""
        return {
            "checkpoint": str(checkpoint.resolve()),
            "model": "",
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "latents": str(latents),
            "steps": self.steps,
            "width": self.size.width,
            "height": self.size.height,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "device": self.device,
            "threads": self.threads,
        }

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "size": str(self.size)}


@dataclass(frozen=True, slots=True)
class Lineup:
    """Who can start, the reference before ours and ours before the other peers; and who cannot.

    `peers` are the contestants that are not ours.
    """

    contestants: tuple[Contestant, ...]
    absent: tuple[Row, ...]
    peers: tuple[Contestant, ...]


def line_up(
    bundle: Path, peers: Sequence[Peer], spec: Mapping[str, Any], folder: Path, say: Say
) -> Lineup:
    """Our engines and these peers, whose models are made in `folder`, for one picture.

    The first of the peers is the reference, which needs no model made and is there.
    """
    reference = _entry(peers[0], spec, None)
    others = [_peer(peer, spec, folder, say) for peer in peers[1:]]
    device = spec["device"]
    ours = [
        _ours(bundle, name, precision, spec)
        for name, precision in OURS[device]
        if computed(precision, device)
    ]
    every = [reference, *ours, *others]
    return Lineup(
        tuple(each for each in every if isinstance(each, Contestant)),
        tuple(each for each in every if isinstance(each, Row)),
        tuple(each for each in (reference, *others) if isinstance(each, Contestant)),
    )


def chosen(names: Sequence[str] | None, device: str) -> list[Peer]:
    """The device's reference, then the peers of these names, or all that the device computes.

    Nobody twice. Raises `InputError` for a device that is not known and for a name that is no
    peer's of it.
    """
    if device not in REFERENCE:
        raise InputError("device", f"one of {', '.join(REFERENCE)}", repr(device))
    every = [peer for peer in PEERS if peer.device == device]
    able = [peer for peer in every if computed(peer.precision, device)]
    found = able if names is None else [find_peer(name) for name in names]
    for peer in found:
        if peer.device != device:
            expected = f"one that runs on {device}: {', '.join(one.name for one in every)}"
            raise InputError("peer", expected, repr(peer.name))
    return list(dict.fromkeys((find_peer(REFERENCE[device]), *found)))


def noise(bundle: Bundle, settings: Settings) -> NDArray[np.float32]:
    """PyTorch's numbers of the settings' seed, [1, channels, h, w]."""
    manifest, size = bundle.manifest, settings.size
    height, width = (n // manifest.vae_factor for n in (size.height, size.width))
    return noise_stream("torch", settings.seed).normal((1, manifest.latent_channels, height, width))


def _peer(peer: Peer, spec: Mapping[str, Any], folder: Path, say: Say) -> Contestant | Row:
    lacks = missing(peer)
    if lacks is not None:
        say(f"{peer.name}: {lacks}")
        return Row(peer.name, peer.precision, lacks.problem, lacks.remedy)
    try:
        if peer.exporter:
            say(f"{peer.name}: preparing")
        model = prepare(peer, Path(spec["checkpoint"]), folder)
    except EngineError as error:
        say(str(error))
        return Row(peer.name, peer.precision, str(error))
    return _entry(peer, spec, model)


def _entry(peer: Peer, spec: Mapping[str, Any], model: Path | None) -> Contestant:
    own = {**spec, "precision": peer.precision, "model": str(model.resolve()) if model else ""}
    command = (str(peer.python), str(peer.path))
    return Contestant(peer.name, peer.precision, command, own, environment())


def _ours(bundle: Path, engine: str, precision: str, spec: Mapping[str, Any]) -> Contestant | Row:
    name = f"{OURS_PREFIX}{engine}-{precision}"
    status = backend(engine).status()
    if status.version is None or status.problem:
        return Row(name, precision, status.problem, status.remedy)
    own = {**spec, "model": str(bundle.resolve()), "engine": engine, "precision": precision}
    command = (sys.executable, "-m", "latentrt.benchmarks.peers.contestant")
    return Contestant(name, precision, command, own)
