"""Everything that only an NVIDIA GPU can settle, in one run and one JSON file.

    python -m latentrt.benchmarks.gpu [--bundle PATH[=CHECKPOINT] ...] [--sd15] [--json FILE]
                                      [--environment FOLDER ...]

Exports models/shapes in fp32 and fp16, or takes bundles that are ready, and for every provider that
it finds builds, verifies, times and compares; then PyTorch on the same components, and PyTorch's
CUDA numbers against the runtime's. A provider that is not there is told with what is
missing; one that fails, with its error, and the rest goes on. Each is a process of its own, by the
Python of the first environment that has it, since the extras of some exclude each other: this one,
then each `--environment`. PyTorch is the one here. Without a GPU the CPU's engines run instead, so
that the script is known to work. Exit status 0: everything that was found passed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.child import child, run
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.providers import Environment, Provider, providers
from latentrt.benchmarks.trial import described
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.publish import write_file
from latentrt.engines.backends import BACKENDS, backend
from latentrt.engines.cuda_device import Gpu, Missing, gpu

SCHEMA: Final = 1
RESULTS: Final = Path("benchmarks/results")
SHAPES: Final = "models/shapes"
PREFIX: Final = "random:"
SD15: Final = f"{PREFIX}sd15"
_EXPORT: Final = (
    "import sys; from latentrt.export.export import export; "
    "export(sys.argv[1], sys.argv[2], dtype=sys.argv[3])"
)
STRIPPED: Final = "stripped"


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
    """

    subjects: tuple[Subject, ...]
    on_cpu: bool
    engines: tuple[str, ...] = field(default=tuple(BACKENDS))
    repeats: int = 20
    steps: int = 20
    limit: float = 1800.0
    environments: tuple[Path, ...] = ()


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
            _say(f"environment {other.name}: {other.problem or 'asked'}")
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
        _say("PyTorch's CUDA numbers against the runtime's")
        found["noise"] = child("latentrt.benchmarks.torch_noise", [], scratch, campaign.limit)
        keep(found)
        tried = [provider for provider in offered if _runs(provider, campaign)]
        for subject in campaign.subjects:
            row: dict[str, Any] = {"name": subject.name, "checkpoint": subject.checkpoint}
            row |= {"dtype": subject.dtype, "problem": "", "engines": [], "reference": []}
            found["bundles"].append(row)
            for _ in _tries(row, subject, tried, campaign, scratch):
                keep(found)
    return {**found, "passed": _passed(found), "finished": True}


def _passed(found: Mapping[str, Any]) -> bool:
    bundles, noise = found["bundles"], found["noise"]
    tried = [row["passed"] for bundle in bundles for row in bundle["engines"]]
    had = not any(bundle["problem"] for bundle in bundles)
    agrees = not noise.get("found", False) or noise["agrees"]
    return bool(tried) and all(tried) and had and agrees


def _runs(provider: Provider, campaign: Campaign) -> bool:
    """Whether a backend is tried."""
    of_cpu = set(provider.status.devices) <= {"CPU"}
    asked = provider.status.name in campaign.engines
    return provider.status.usable and of_cpu == campaign.on_cpu and asked


def _row(provider: Provider, campaign: Campaign) -> dict[str, Any]:
    """A backend's status, where that is, and whether it is tried."""
    found, runs = provider.status, _runs(provider, campaign)
    state = f"runs, {found.version}" if runs else found.problem or "left out"
    _say(f"{found.name}: {state}{f'; {found.remedy}' if found.remedy and not runs else ''}")
    row = {**asdict(found), "devices": list(found.devices)}
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
        _say(f"{subject.name}: exporting {subject.checkpoint}")
        command = [sys.executable, "-c", _EXPORT, subject.checkpoint, str(path), subject.dtype]
        row["problem"] = run(command, campaign.limit, scratch)
    try:
        bundle = None if row["problem"] else Bundle.open(path)
    except Exception as error:
        bundle, row["problem"] = None, described(error)
    if bundle is None:
        _say(f"{subject.name}: {row['problem']}")
        return
    row["dtype"] = bundle.manifest.dtype
    for provider in tried:
        for how in _ways(provider.status.name, bundle.manifest.dtype):
            row["engines"].append(_tried(path, provider, how, campaign, scratch))
            yield
    checkpoint = subject.checkpoint
    if not checkpoint and bundle.manifest.source.startswith(PREFIX):
        checkpoint = bundle.manifest.source
    if checkpoint:
        row["reference"] = _references(path, checkpoint, campaign, scratch)
        yield
    else:
        _say(f"{subject.name}: no PyTorch beside it: --bundle PATH=CHECKPOINT says of what it is")


def _ways(name: str, dtype: str) -> list[list[str]]:
    """What a backend is tried in, as options: every precision, and without weights."""
    known = backend(name).PRECISIONS.get(dtype, ())
    ways = [[precision] for precision in known]
    if ways and STRIPPED in backend(name).OPTIONS:
        ways.append([known[0], f"--{STRIPPED}"])
    return ways


def _tried(
    path: Path, provider: Provider, how: Sequence[str], campaign: Campaign, scratch: Path
) -> dict[str, Any]:
    """A trial's row; `how` is a precision, and further options."""
    name, environment = provider.status.name, provider.environment
    arguments: list[object] = [path, "--engine", name, "--precision", *how]
    arguments += ["--cache", scratch / "cache", "--repeats", campaign.repeats]
    arguments += ["--steps", campaign.steps]
    limit, python = campaign.limit, environment.python
    row = child("latentrt.benchmarks.trial", arguments, scratch, limit, python)
    row = {"engine": name, "precision": how[0], "components": {}, **row}
    row |= {"version": provider.status.version, "environment": environment.name}
    _say(f"{path.name} {name} {' '.join(how)}: {row['problem'] or 'passed'}")
    _print_times({**row["components"], "picture": row.get("picture") or {}})
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
        row = {"engine": "pytorch", "precision": precision, "components": {}, **row}
        _say(f"{path.name} pytorch {device} {precision}: {row['problem'] or 'measured'}")
        _print_times(row["components"])
        rows.append(row)
    return rows


def _described(device: Gpu | Missing) -> dict[str, Any]:
    if isinstance(device, Missing):
        return {"found": False, **asdict(device)}
    return {"found": True, **asdict(device), "nvidia_smi": _nvidia_smi()}


def _nvidia_smi() -> dict[str, str]:
    """The driver's version, the memory and the power limit, as NVIDIA's tool has them."""
    fields = ("driver_version", "memory.total", "power.limit", "clocks.max.sm")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, done.stdout.strip().split(", "), strict=False))


def _print_times(components: Mapping[str, Mapping[str, Any]]) -> None:
    for name, row in components.items():
        if row.get("seconds"):
            seconds, error = row["seconds"], row.get("error")
            ends = f"({seconds['least'] * 1e3:.2f} to {seconds['greatest'] * 1e3:.2f})"
            off = f"error {error['relative']:.1e}" if error else ""
            _say(f"    {name:<16}{seconds['median'] * 1e3:10.2f} ms  {ends:<24}{off}")


def _say(line: str) -> None:
    print(line, flush=True)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _subjects(bundles: Sequence[str], sd15: bool) -> tuple[Subject, ...]:
    if bundles:
        pairs = (bundle.partition("=") for bundle in bundles)
        return tuple(Subject(Path(p).name, checkpoint, path=Path(p)) for p, _, checkpoint in pairs)
    shapes = tuple(Subject(f"shapes-{dtype}", SHAPES, dtype) for dtype in ("fp32", "fp16"))
    return (*shapes, Subject("sd15-fp16", SD15, "fp16")) if sd15 else shapes


def main() -> None:
    """Run everything, print as it goes, write the JSON; exit status 1 where something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bundle", action="append", default=[], help="PATH, or PATH=CHECKPOINT")
    parser.add_argument("--sd15", action="store_true", help="random:sd15 in fp16 too")
    parser.add_argument("--cpu", action="store_true", help="the CPU's engines, GPU or not")
    parser.add_argument("--engine", action="append", help="only this one; may be repeated")
    parser.add_argument(
        "--environment", action="append", default=[], type=Path,
        help="the folder of a virtual environment with other extras; may be repeated",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds of one process")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = gpu()
    if isinstance(device, Missing):
        _say(f"no GPU: {device}")
        _say("the CPU's engines run instead, which shows that this script works and nothing else")
    else:
        _say(f"{device.name} ({device.target}), CUDA {device.cuda}")
    campaign = Campaign(
        subjects=_subjects(options.bundle, options.sd15),
        on_cpu=options.cpu or isinstance(device, Missing),
        engines=tuple(options.engine or BACKENDS),
        repeats=options.repeats,
        steps=options.steps,
        limit=options.limit,
        environments=tuple(options.environment),
    )
    # What a CPU does is no result of a GPU.
    place = Path("build/gpu-none.json")
    if isinstance(device, Gpu) and not options.cpu:
        place = RESULTS / f"gpu-{_slug(device.name)}.json"
    place = options.json or place
    place.parent.mkdir(parents=True, exist_ok=True)

    def write(found: Mapping[str, Any]) -> None:
        write_file(place, (json.dumps(found, indent=1) + "\n").encode())

    found = measure(campaign, device, write)
    write(found)
    _say(f"{'passed' if found['passed'] else 'FAILED'}: {place}")
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
