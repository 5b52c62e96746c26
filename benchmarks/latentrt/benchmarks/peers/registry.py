"""The libraries that latentrt is measured against, each by its documented fastest path.

Each is a script under `benchmarks/peers` that imports nothing of latentrt. Libraries that pin other
versions than latentrt live in environments of their own, which `make peers` makes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from latentrt.bundle.errors import EngineError, InputError
from latentrt.bundle.publish import publishing
from latentrt.engines.cuda.device import Missing, gpu
from latentrt.engines.registry import backend

ROOT: Final = Path(__file__).resolve().parents[4]
SCRIPTS: Final = ROOT / "benchmarks" / "peers"
ENVIRONMENTS: Final = ROOT / ".venv-peers"
STAMP: Final = ".stamp"
"""The file that `make peers` leaves in a finished environment."""
REFERENCE: Final = {"cpu": "diffusers-fp32", "cuda": "diffusers-cuda-fp16"}
"""The peer that all ratios are to, by device."""
# Nothing of latentrt's on their path, and no downloads.
VARIABLES: Final = {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
_PACKAGES: Final = ("torch", "diffusers", "transformers")
_LIMIT: Final = 7200.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A library in one precision.

    `environment` names its virtual environment, "" this one; `exporter` is what makes its model, ""
    where it reads checkpoints.
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
"""Those of "cuda" are unverified."""

_EXPORTS: Final = {
    "onnx": ("export", "onnx", "--task", "text-to-image"),
    # By default the exporter may compress weights, which would be another model.
    "openvino": ("export", "openvino", "--task", "text-to-image", "--weight-format", "fp32"),
}


def selected(names: Sequence[str] | None, device: str) -> list[Peer]:
    """The device's reference, then the peers of these names, by default all that can run.

    Raises `InputError` for an unknown device or name, and for a peer of another device.
    """
    if device not in REFERENCE:
        raise InputError("device", f"one of {', '.join(REFERENCE)}", repr(device))
    known = {peer.name: peer for peer in PEERS if peer.device == device}
    for name in names or ():
        if name not in known:
            raise InputError("peer", f"one of {', '.join(known)}", repr(name))
    every = [name for name, peer in known.items() if computes(peer.precision, device)]
    return [
        known[n] for n in dict.fromkeys((REFERENCE[device], *(every if names is None else names)))
    ]


def computes(precision: str, device: str) -> bool:
    """Whether a device computes in a precision; of a GPU that is not known, so True.

    On a CPU without bf16 PyTorch is slower in it than in fp32, and OpenVINO silently takes fp32.
    """
    return device != "cpu" or precision in backend("openvino").precisions["float32"]


def missing(peer: Peer) -> Missing | None:
    """What a peer lacks here, and the command that installs it; None where it can run."""
    if not peer.path.is_file():
        return Missing(f"its script {peer.script} is missing", "run from a checkout of latentrt")
    if peer.environment and not (ENVIRONMENTS / peer.environment / STAMP).is_file():
        problem = f"the environment .venv-peers/{peer.environment} is missing"
        return Missing(problem, f"make peers ARGS={peer.environment}")
    if peer.exporter == "openvino" and not computes(peer.precision, peer.device):
        problem = f"this CPU does not compute in {peer.precision}"
        return Missing(problem, "use openvino-genai-fp32")
    absent = [name for name in _PACKAGES if not peer.environment and find_spec(name) is None]
    if absent:
        return Missing(f"not installed: {', '.join(absent)}", "pip install 'latentrt[bench]'")
    found = gpu() if peer.device == "cuda" else None
    return found if isinstance(found, Missing) else None


def exported(peer: Peer, checkpoint: Path, folder: Path) -> Path | None:
    """The model that a peer's exporter makes of a diffusers folder; None where it needs none.

    It is made once in `folder`, under a name of the checkpoint's content and the exporter's
    versions. Raises `EngineError` with the last line of a failing exporter.
    """
    if not peer.exporter:
        return None
    model = folder / f"{peer.exporter}-{_digest(peer, checkpoint)[:16]}"
    if model.is_dir():
        return model
    with publishing(model) as fresh:
        command = [str(peer.python.with_name("optimum-cli")), *_EXPORTS[peer.exporter]]
        command += ["--model", str(checkpoint.resolve()), str(fresh)]
        variables = {**os.environ, **VARIABLES}
        try:
            subprocess.run(
                command, env=variables, timeout=_LIMIT, check=True, capture_output=True,
                text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            lines = [line for line in str(error.stderr).splitlines() if line.strip()]
            last = lines[-1].strip() if lines else f"exit status {error.returncode}"
            raise EngineError(f"{peer.name}: export failed: {last}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"{peer.name}: export failed: {error}") from error
    return model


def _digest(peer: Peer, checkpoint: Path) -> str:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    digest = hashlib.sha256((SCRIPTS / f"{peer.environment}.txt").read_bytes())
    for path in files:
        digest.update(f"\0{path.relative_to(checkpoint)}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
