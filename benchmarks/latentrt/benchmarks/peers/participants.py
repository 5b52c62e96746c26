"""Who takes part in a measurement beside other libraries, and what all of them draw."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.narration import Say
from latentrt.benchmarks.peers.registry import (
    SCRIPTS,
    VARIABLES,
    Peer,
    computes,
    exported,
    missing,
)
from latentrt.benchmarks.peers.results import PREFIX, PeerResult
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import EngineError
from latentrt.bundle.golden import RUN_PROMPT
from latentrt.engines.registry import backend
from latentrt.runtime import Size
from latentrt.runtime.noise import noise_stream

OURS: Final = {
    "cpu": (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")),
    "cuda": (("onnxruntime-cuda", "fp16"), ("tensorrt", "fp16")),
}
"""latentrt's engines and precisions, by device; those of "cuda" are unverified."""
_SCRIPT: Final = "latentrt_engines.py"


@dataclass(frozen=True, slots=True)
class Settings:
    """What everybody draws: `seed` is that of the noise, `device` "cpu" or "cuda".

    `threads` None leaves their number to each library. The sampler "ddim" is the same in all
    libraries; OpenVINO GenAI spaces "euler" otherwise by default.
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
        """What a script of `benchmarks/peers` reads, but for its precision and model."""
        return {
            **{name: value for name, value in asdict(self).items() if name not in ("size", "seed")},
            "checkpoint": str(checkpoint.resolve()),
            "latents": str(latents),
            "width": self.size.width,
            "height": self.size.height,
        }

    def noise(self, bundle: Bundle) -> NDArray[np.float32]:
        """PyTorch's numbers of the seed, float32 [1, channels, h, w]."""
        manifest = bundle.manifest
        height, width = (n // manifest.vae_factor for n in (self.size.height, self.size.width))
        shape = (1, manifest.latent_channels, height, width)
        return noise_stream("torch", self.seed).normal(shape)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "size": str(self.size)}


@dataclass(frozen=True, slots=True)
class Participant:
    """A library in one precision, ready to start: its command, and the spec that it reads."""

    name: str
    precision: str
    command: tuple[str, ...]
    spec: Mapping[str, Any]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    def arguments(self, folder: Path) -> tuple[str, ...]:
        """The command with a spec file in `folder`, which this writes."""
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(dict(self.spec)), encoding="utf-8")
        return (*self.command, str(path), "--serve")


def participants(
    bundle: Path, peers: Sequence[Peer], spec: Mapping[str, Any], folder: Path, say: Say
) -> tuple[list[Participant], list[PeerResult]]:
    """Those that can start, the reference first, and a result for each of those that cannot.

    The first of `peers` is the reference; models of peers are made in `folder`.
    """
    device = spec["device"]
    reference, *others = [_peer(peer, spec, folder, say) for peer in peers]
    ours = [
        _ours(bundle, engine, precision, spec)
        for engine, precision in OURS[device]
        if computes(precision, device)
    ]
    every = [reference, *ours, *others]
    return (
        [each for each in every if isinstance(each, Participant)],
        [each for each in every if isinstance(each, PeerResult)],
    )


def _peer(peer: Peer, spec: Mapping[str, Any], folder: Path, say: Say) -> Participant | PeerResult:
    lacks = missing(peer)
    if lacks is not None:
        say(f"{peer.name}: {lacks}")
        return PeerResult(peer.name, peer.precision, lacks.problem, lacks.remedy)
    try:
        if peer.exporter:
            say(f"{peer.name}: exporting")
        model = exported(peer, Path(spec["checkpoint"]), folder)
    except EngineError as error:
        say(str(error))
        return PeerResult(peer.name, peer.precision, str(error))
    own = {**spec, "precision": peer.precision, "model": str(model.resolve()) if model else ""}
    command = (str(peer.python), str(peer.path))
    return Participant(peer.name, peer.precision, command, own, VARIABLES)


def _ours(
    bundle: Path, engine: str, precision: str, spec: Mapping[str, Any]
) -> Participant | PeerResult:
    name = f"{PREFIX}{engine}-{precision}"
    status = backend(engine).status()
    if not status.usable:
        return PeerResult(name, precision, status.problem, status.remedy)
    own = {**spec, "model": str(bundle.resolve()), "engine": engine, "precision": precision}
    return Participant(name, precision, (sys.executable, str(SCRIPTS / _SCRIPT)), own)
