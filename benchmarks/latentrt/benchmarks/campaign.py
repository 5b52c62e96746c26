"""Engines tried, timed and compared on bundles, every finding told as it is there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.child import child, run
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.narration import say
from latentrt.benchmarks.peers.standings import Standings
from latentrt.benchmarks.providers import Environment, Provider, providers
from latentrt.benchmarks.trial import described
from latentrt.bundle.bundle import Bundle
from latentrt.engines.cuda.device import Gpu, Missing
from latentrt.engines.options import names_of
from latentrt.engines.registry import BACKENDS, backend

SCHEMA: Final = 1
PREFIX: Final = "random:"
STRIPPED: Final = "stripped"
_EXPORT: Final = (
    "import sys; from latentrt.export.export import export; "
    "export(sys.argv[1], sys.argv[2], dtype=sys.argv[3])"
)

_CONTESTED: Final = {"cpu": "float32", "cuda": "float16"}
"""What bundles are stored in that a contest on a device is held over."""

Keep = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A bundle to try engines on: made of `checkpoint` in `dtype`, or ready at `path`.

    Of a ready one, PyTorch is only measured where the checkpoint is known.
    """

    name: str
    checkpoint: str
    dtype: str = ""
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is to be run; `limit` is the seconds that any one process may take.

    `environments` are folders of virtual environments that have backends which this one has not.
    With `rounds`, a contest of so many is held beside other libraries: `peers` by their names, or,
    for None, all of the device's.
    """

    subjects: tuple[Subject, ...]
    on_cpu: bool
    engines: tuple[str, ...] = field(default=tuple(BACKENDS))
    repeats: int = 20
    steps: int = 20
    limit: float = 1800.0
    environments: tuple[Path, ...] = ()
    rounds: int = 0
    peers: tuple[str, ...] | None = None


def _drop(found: Mapping[str, Any]) -> None:
    del found


def measure(campaign: Campaign, device: Gpu | Missing, keep: Keep = _drop) -> dict[str, Any]:
    """Every finding as one JSON object; `passed` is whether all that was found is as it should.

    `keep` is told after every finding what there is so far, with `finished` false: what was found
    is not lost with what came after it.
    """
    with tempfile.TemporaryDirectory(prefix="latentrt-gpu-") as folder:
        scratch = Path(folder)
        others = [Environment.of(f, scratch, campaign.limit) for f in campaign.environments]
        for other in others:
            say(f"environment {other.name}: {other.problem or 'asked'}")
        offered = providers([Environment.here(), *others])
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "machine": Machine.here().to_json(),
            "gpu": _described(device),
            "mode": "cpu" if campaign.on_cpu else "gpu",
            "repeats": campaign.repeats,
            "environments": [{"name": o.name, "problem": o.problem} for o in others],
            "providers": [_row(provider, campaign) for provider in offered],
            "noise": None,
            "bundles": [],
            "passed": False,
            "finished": False,
        }
        say("PyTorch's CUDA numbers against the runtime's")
        found["noise"] = _noise(scratch, campaign.limit)
        keep(found)
        tried = [provider for provider in offered if _runs(provider, campaign)]
        for subject in campaign.subjects:
            row: dict[str, Any] = {"name": subject.name, "checkpoint": subject.checkpoint}
            row |= {"dtype": subject.dtype, "problem": "", "engines": [], "reference": []}
            row["contest"] = None
            found["bundles"].append(row)
            for _ in _tries(row, subject, tried, campaign, scratch):
                keep(found)
    return {**found, "passed": _passed(found), "finished": True}


def _noise(scratch: Path, limit: float) -> dict[str, Any]:
    """Whether PyTorch's numbers are the runtime's; not, where nobody could say."""
    row = child("latentrt.benchmarks.torch_noise", [], scratch, limit)
    return {"found": True, "agrees": False, "problem": "", **row}


def _passed(found: Mapping[str, Any]) -> bool:
    bundles, noise = found["bundles"], found["noise"]
    tried = [row["passed"] for bundle in bundles for row in bundle["engines"]]
    had = not any(bundle["problem"] for bundle in bundles)
    agrees = not noise["found"] or noise["agrees"]
    return bool(tried) and all(tried) and had and agrees


def _runs(provider: Provider, campaign: Campaign) -> bool:
    """Whether a backend is tried."""
    of_cpu = set(provider.status.devices) <= {"CPU"}
    asked = provider.name in campaign.engines
    return provider.status.usable and of_cpu == campaign.on_cpu and asked


def _row(provider: Provider, campaign: Campaign) -> dict[str, Any]:
    """A backend's status, where that is, and whether it is tried."""
    found, runs = provider.status, _runs(provider, campaign)
    state = f"runs, {found.version}" if runs else found.problem or "left out"
    say(f"{provider.name}: {state}{f'; {found.remedy}' if found.remedy and not runs else ''}")
    row = {"name": provider.name, **asdict(found), "devices": list(found.devices)}
    row["unverified"] = bool(backend(provider.name).unverified)
    return {**row, "environment": provider.environment.name, "runs": runs}


def _tries(
    row: dict[str, Any],
    subject: Subject,
    tried: Sequence[Provider],
    campaign: Campaign,
    scratch: Path,
) -> Iterator[None]:
    """Fill a bundle's row, one finding after the other."""
    path = subject.path or scratch / subject.name
    if subject.path is None:
        say(f"{subject.name}: exporting {subject.checkpoint}")
        command = [sys.executable, "-c", _EXPORT, subject.checkpoint, str(path), subject.dtype]
        row["problem"] = run(command, campaign.limit, scratch)
    try:
        bundle = None if row["problem"] else Bundle.open(path)
    except Exception as error:
        bundle, row["problem"] = None, described(error)
    if bundle is None:
        say(f"{subject.name}: {row['problem']}")
        return
    row["dtype"] = bundle.manifest.dtype
    for provider in tried:
        for how in _ways(provider.name, bundle.manifest.dtype):
            row["engines"].append(_tried(path, provider, how, campaign, scratch))
            yield
    checkpoint = subject.checkpoint
    if not checkpoint and bundle.manifest.source.startswith(PREFIX):
        checkpoint = bundle.manifest.source
    if checkpoint:
        row["reference"] = _references(path, checkpoint, campaign, scratch)
        yield
        row["contest"] = _contest(bundle, checkpoint, campaign, scratch)
        yield
    else:
        say(f"{subject.name}: no PyTorch beside it: --bundle PATH=CHECKPOINT says of what it is")


def _ways(name: str, dtype: str) -> list[list[str]]:
    """What a backend is tried in, as options: every precision, and without weights."""
    known = backend(name).precisions.get(dtype, ())
    ways = [[precision] for precision in known]
    if ways and STRIPPED in names_of(backend(name).options):
        ways.append([known[0], f"--{STRIPPED}"])
    return ways


def _tried(
    path: Path, provider: Provider, how: Sequence[str], campaign: Campaign, scratch: Path
) -> dict[str, Any]:
    """A trial's row; `how` is a precision, and further options."""
    name, environment = provider.name, provider.environment
    arguments: list[object] = [path, "--engine", name, "--precision", *how]
    arguments += ["--cache", scratch / "cache", "--repeats", campaign.repeats]
    arguments += ["--steps", campaign.steps]
    limit, python = campaign.limit, environment.python
    row = child("latentrt.benchmarks.trial", arguments, scratch, limit, python)
    untried = {"stripped": f"--{STRIPPED}" in how, "passed": False, "components": {}}
    untried |= {"picture": None, "compare": None}
    row = {"engine": name, "precision": how[0], **untried, **row}
    row |= {"version": provider.status.version, "environment": environment.name}
    say(f"{path.name} {name} {' '.join(how)}: {row['problem'] or 'passed'}")
    _print_times({**row["components"], "picture": row["picture"] or {}})
    return row


def _references(
    path: Path, checkpoint: str, campaign: Campaign, scratch: Path
) -> list[dict[str, Any]]:
    """PyTorch's rows: on the GPU fp32 and fp16, on a CPU fp32."""
    device = "cpu" if campaign.on_cpu else "cuda"
    rows: list[dict[str, Any]] = []
    for precision in ("fp32",) if campaign.on_cpu else ("fp32", "fp16"):
        arguments: list[object] = [path, "--checkpoint", checkpoint]
        arguments += ["--device", device, "--precision", precision, "--repeats", campaign.repeats]
        row = child("latentrt.benchmarks.torch_reference", arguments, scratch, campaign.limit)
        row = {"engine": "pytorch", "precision": precision, "device": device, **row}
        row.setdefault("components", {})
        say(f"{path.name} pytorch {device} {precision}: {row['problem'] or 'measured'}")
        _print_times(row["components"])
        rows.append(row)
    return rows


def _contest(
    bundle: Bundle, checkpoint: str, campaign: Campaign, scratch: Path
) -> dict[str, Any] | None:
    """The standings of a contest at the bundle's own size; None where none is held over it."""
    device, manifest = "cpu" if campaign.on_cpu else "cuda", bundle.manifest
    if not campaign.rounds or manifest.dtype != _CONTESTED[device]:
        return None
    say(f"{bundle.path.name} beside other libraries")
    height, width = (manifest.vae_factor * edge for edge in manifest.sample_size)
    out = scratch / "standings.json"
    arguments: list[object] = ["--bundle", bundle.path, "--checkpoint", checkpoint]
    arguments += ["--device", device, "--size", f"{width}x{height}", "--steps", campaign.steps]
    arguments += ["--rounds", campaign.rounds, "--folder", scratch / "peers", "--json", out]
    for name in campaign.peers or ():
        arguments += ["--against", name]
    command = [sys.executable, "-m", "latentrt.benchmarks.peers.contest", *map(str, arguments)]
    problem = run(command, campaign.limit, scratch)
    if problem:
        say(problem)
        return {"problem": problem, "standings": None}
    standings: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    say(str(Standings.from_json(standings)))
    return {"problem": "", "standings": standings}


def _described(device: Gpu | Missing) -> dict[str, Any]:
    if isinstance(device, Missing):
        return {"found": False, **asdict(device)}
    return {"found": True, **asdict(device), "nvidia_smi": _nvidia_smi()}


def _nvidia_smi() -> dict[str, str]:
    """The driver's version, the memory and the power limit, as NVIDIA's tool has them."""
    fields = ("driver_version", "memory.total", "power.limit", "clocks.max.sm")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, done.stdout.strip().split(", "), strict=False))


def _print_times(components: Mapping[str, Mapping[str, Any]]) -> None:
    for name, row in components.items():
        if row.get("seconds"):
            seconds, error = row["seconds"], row.get("error")
            ends = f"({seconds['least'] * 1e3:.2f} to {seconds['greatest'] * 1e3:.2f})"
            off = f"error {error['relative']:.1e}" if error else ""
            say(f"    {name:<16}{seconds['median'] * 1e3:10.2f} ms  {ends:<24}{off}")
