"""Everything that only an NVIDIA GPU can settle, in one run and one JSON file.

    python -m latentrt.benchmarks.gpu [--bundle PATH[=CHECKPOINT] ...] [--sd15] [--json FILE]
                                      [--environment FOLDER ...]

Exports models/shapes in fp32 and fp16, or takes bundles that are ready, and for every provider that
it finds builds, verifies, times and compares; then PyTorch on the same components, a contest beside
other libraries, and PyTorch's CUDA numbers against the runtime's. A provider that is not there is
told with what is missing; one that fails, with its error, and the rest goes on. Each is a process
of its own, by the Python of the first environment that has it, since the extras of some exclude
each other: this one, then each `--environment`. PyTorch is the one here, as are those of the
contest. Without a GPU the CPU's engines run instead, beside diffusers for one round, so that the
script is known to work. Exit status 0: everything that was found passed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from latentrt.benchmarks.campaign import PREFIX, Campaign, Subject, measure
from latentrt.benchmarks.narration import say
from latentrt.bundle.publish import write_file
from latentrt.engines.cuda.device import Gpu, Missing, gpu
from latentrt.engines.registry import BACKENDS

RESULTS: Final = Path("benchmarks/results")
SHAPES: Final = "models/shapes"
SD15: Final = f"{PREFIX}sd15"
_ROUNDS: Final = 10


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _subjects(bundles: Sequence[str], sd15: bool) -> tuple[Subject, ...]:
    if bundles:
        pairs = (bundle.partition("=") for bundle in bundles)
        return tuple(Subject(Path(p).name, checkpoint, path=Path(p)) for p, _, checkpoint in pairs)
    shapes = tuple(Subject(f"shapes-{dtype}", SHAPES, dtype) for dtype in ("fp32", "fp16"))
    return (*shapes, Subject("sd15-fp16", SD15, "fp16")) if sd15 else shapes


def _plain(value: Any) -> Any:
    """As JSON has it: what is not finite, such as an error of NaN, is null."""
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        return {name: _plain(member) for name, member in members.items()}
    if isinstance(value, list):
        return [_plain(member) for member in cast("list[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        say(f"no GPU: {device}")
        say("the CPU's engines run instead, which shows that this script works and nothing else")
    else:
        say(f"{device.name} ({device.target}), CUDA {device.cuda}")
    on_cpu = options.cpu or isinstance(device, Missing)
    campaign = Campaign(
        subjects=_subjects(options.bundle, options.sd15),
        on_cpu=on_cpu,
        engines=tuple(options.engine or BACKENDS),
        repeats=options.repeats,
        steps=options.steps,
        limit=options.limit,
        environments=tuple(options.environment),
        rounds=1 if on_cpu else _ROUNDS,
        peers=("diffusers-fp32",) if on_cpu else None,
    )
    # What a CPU does is no result of a GPU.
    place = Path("build/gpu-none.json")
    if isinstance(device, Gpu) and not options.cpu:
        place = RESULTS / f"gpu-{_slug(device.name)}.json"
    place = options.json or place
    place.parent.mkdir(parents=True, exist_ok=True)

    def write(found: Mapping[str, Any]) -> None:
        write_file(place, (json.dumps(_plain(found), indent=1, allow_nan=False) + "\n").encode())

    found = measure(campaign, device, write)
    write(found)
    say(f"{'passed' if found['passed'] else 'FAILED'}: {place}")
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
