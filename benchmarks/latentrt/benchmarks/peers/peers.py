"""Whom latentrt is measured against: other libraries, each by its documented fastest path.

What a peer does is a script under `benchmarks/peers` that imports nothing of latentrt. Libraries
that pin other versions than ours live in environments of their own, which `make peers` makes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from latentrt.benchmarks.child import run
from latentrt.bundle.errors import EngineError, InputError
from latentrt.bundle.publish import publishing
from latentrt.engines.cuda.device import Missing, gpu
from latentrt.engines.registry import backend

ROOT: Final = Path(__file__).resolve().parents[4]
SCRIPTS: Final = ROOT / "benchmarks" / "peers"
ENVIRONMENTS: Final = ROOT / ".venv-peers"
STAMP: Final = ".stamp"
"""What `make peers` leaves in an environment that it has finished."""
REFERENCE: Final = {"cpu": "diffusers-fp32", "cuda": "diffusers-cuda-fp16"}
"""The peer that all others are held against, by device."""
_OURS: Final = ("torch", "diffusers", "transformers")
_LIMIT: Final = 7200.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A library in one precision.

    `environment` names the virtual environment it lives in, "" this project's own; `exporter` is
    what of its own makes the model it runs, "" where it reads checkpoints.
    """

    name: str
    precision: str
    script: str
    environment: str = ""
    exporter: str = ""
    device: str = "cpu"

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        if not self.environment:
            return Path(sys.executable)
        return ENVIRONMENTS / self.environment / "bin" / "python"

    @property
    def path(self) -> Path:
        """Its script."""
        return SCRIPTS / self.script


_ONNX: Final = {"environment": "optimum-onnx", "exporter": "onnx"}
_GENAI: Final = {"environment": "openvino-genai", "exporter": "openvino"}
PEERS: Final = (
    Peer("diffusers-fp32", "fp32", "diffusers_eager.py"),
    Peer("diffusers-compile-fp32", "fp32", "diffusers_compiled.py"),
    Peer("optimum-onnx-fp32", "fp32", "optimum_onnx.py", **_ONNX),
    Peer("openvino-genai-fp32", "fp32", "genai.py", **_GENAI),
    Peer("diffusers-bf16", "bf16", "diffusers_eager.py"),
    Peer("diffusers-compile-bf16", "bf16", "diffusers_compiled.py"),
    Peer("openvino-genai-bf16", "bf16", "genai.py", **_GENAI),
    Peer("diffusers-cuda-fp16", "fp16", "diffusers_eager.py", device="cuda"),
    Peer("diffusers-cuda-compile-fp16", "fp16", "diffusers_compiled.py", device="cuda"),
)
"""All of them; what runs on an NVIDIA GPU is unverified."""

_EXPORTS: Final = {
    "onnx": ("export", "onnx", "--task", "text-to-image"),
    # As they are: left to itself the exporter may compress them, which is another model.
    "openvino": ("export", "openvino", "--task", "text-to-image", "--weight-format", "fp32"),
}


def find_peer(name: str) -> Peer:
    """The peer of a name; raises `InputError` with the names there are."""
    found = next((peer for peer in PEERS if peer.name == name), None)
    if found is None:
        raise InputError("peer", f"one of {', '.join(peer.name for peer in PEERS)}", repr(name))
    return found


def computed(precision: str, device: str) -> bool:
    """Whether a device computes in a precision; where nobody can tell, such as of a GPU, it does.

    A CPU without bf16 does not: PyTorch is slower in it there than in fp32, and OpenVINO takes fp32
    for it and says nothing.
    """
    return device != "cpu" or precision in backend("openvino").precisions["float32"]


def missing(peer: Peer) -> Missing | None:
    """What a peer lacks here, and the command that installs it; None where it can run."""
    if not peer.path.is_file():
        return Missing(f"its script {peer.script} is not here", "run from a checkout of latentrt")
    if peer.environment and not (ENVIRONMENTS / peer.environment / STAMP).is_file():
        problem = f"the environment .venv-peers/{peer.environment} is not there"
        return Missing(problem, f"make peers ARGS={peer.environment}")
    if peer.exporter == "openvino" and not computed(peer.precision, peer.device):
        problem = f"this CPU has no {peer.precision}: OpenVINO would take fp32 for it"
        return Missing(problem, "take openvino-genai-fp32")
    absent = [name for name in _OURS if not peer.environment and find_spec(name) is None]
    if absent:
        return Missing(f"not installed: {', '.join(absent)}", "pip install 'latentrt[bench]'")
    found = gpu() if peer.device == "cuda" else None
    return found if isinstance(found, Missing) else None


def environment() -> dict[str, str]:
    """The variables that peers' processes run with: nothing of ours on its path, no downloads."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**own, "HF_HUB_OFFLINE": "1"}


def prepare(peer: Peer, checkpoint: Path, folder: Path) -> Path | None:
    """What a peer's own exporter makes of a diffusers folder, made once; None where it needs none.

    It lies in `folder` under a name of the checkpoint's content and of the exporter's versions.
    Raises `EngineError` with the last line of an exporter that fails.
    """
    if not peer.exporter:
        return None
    model = folder / f"{peer.exporter}-{_digest(peer, checkpoint)[:16]}"
    if not model.is_dir():
        command = [str(peer.python.with_name("optimum-cli")), *_EXPORTS[peer.exporter]]
        with publishing(model) as fresh:
            command += ["--model", str(checkpoint.resolve()), str(fresh)]
            problem = run(command, _LIMIT, fresh, environment())
            if problem:
                raise EngineError(f"{peer.name}: export failed: {problem}")
    return model


def _digest(peer: Peer, checkpoint: Path) -> str:
    constraints = SCRIPTS / f"{peer.environment}.txt"
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    digest = hashlib.sha256(constraints.read_bytes())
    for path in files:
        digest.update(f"\0{path.relative_to(checkpoint)}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
