"""What a call through the OpenVINO engine adds to the bare compiled model.

    python -m latentrt.benchmarks.calls BUNDLE ... [--json FILE]

One compiled U-Net, evaluated in turns by its own infer requests, where the inputs lie already, and
through the engine, which checks them, hands them over and gives arrays that the caller owns. Aim:
3 % at most. The smaller the model, the more a call shows: models/shapes is the worst case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.contestants import Task, bare_openvino
from latentrt.benchmarks.machine import Machine, load
from latentrt.benchmarks.runtime import Spread
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.publish import write_file
from latentrt.engines.halved import HalvedEngine
from latentrt.engines.openvino.backend import CPU, OpenVinoEngine
from latentrt.engines.openvino.options import OpenVinoOptions
from latentrt.engines.registry import backend

AIM: Final = 0.03


@dataclass(frozen=True, slots=True)
class Call:
    """Seconds of a bundle's U-Net, bare and through the engine.

    `added` is the median, over pairs of neighbours, of what the engine's was longer by, as a part
    of the bare one's median.
    """

    source: str
    precision: str
    latent: int
    pairs: int
    bare: Spread
    engine: Spread
    added: float


def measure(task: Task, precision: str, pairs: int) -> Call:
    """Bare and engine in turns, `pairs` times after three that are not counted."""
    blueprint, inputs = task.blueprint(), task.inputs()
    half = CPU.half(blueprint, OpenVinoOptions())
    compiled, requests = bare_openvino(precision, task, parts=1 if half is None else 2)
    engine = OpenVinoEngine(half or blueprint, compiled)
    if half is not None:
        engine = HalvedEngine(blueprint, engine)
    alone, through = _in_turns(lambda: _evaluated(requests), lambda: engine(inputs), pairs)
    engine.close()
    middle = statistics.median(alone)
    longer = statistics.median(e - b for b, e in zip(alone, through, strict=True))
    return Call(
        source=Bundle.open(task.bundle).manifest.source,
        precision=precision,
        latent=task.latent,
        pairs=pairs,
        bare=Spread.of(alone),
        engine=Spread.of(through),
        added=longer / middle,
    )


def _evaluated(requests: Sequence[Any]) -> None:
    if len(requests) == 1:
        requests[0].infer(share_outputs=True)
        return
    for request in requests:
        request.start_async(share_inputs=True)
    for request in requests:
        request.wait()


def _in_turns(
    first: Callable[[], object], second: Callable[[], object], pairs: int
) -> tuple[list[float], list[float]]:
    found: tuple[list[float], list[float]] = ([], [])
    works = ((first, found[0]), (second, found[1]))
    for number in range(pairs + 3):
        # Who goes first changes: each is the other's neighbour on both sides.
        for work, times in works if number % 2 == 0 else reversed(works):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
    return found[0][3:], found[1][3:]


def print_table(calls: Sequence[Call]) -> None:
    """Medians in milliseconds, and what was added."""
    print(f"{'U-Net':<34}{'bare ms':>12}{'engine ms':>12}{'added':>9}   (aim {AIM:.0%})")
    for call in calls:
        name = f"{Path(call.source).name}, {call.latent} x {call.latent}, {call.precision}"
        medians = f"{call.bare.median * 1e3:12.3f}{call.engine.median * 1e3:12.3f}"
        print(f"{name:<34}{medians}{call.added:9.2%}")


def main() -> None:
    """Measure bundles, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="stored in fp32")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the measurements here")
    options = parser.parse_args()
    calls = [
        measure(Task(path, "unet", Bundle.open(path).manifest.sample_size[0]), each, options.pairs)
        for path in options.bundles
        for each in backend("openvino").precisions["float32"]
    ]
    print_table(calls)
    if options.json is not None:
        found = {
            "machine": Machine.here().to_json(),
            "load": load(),
            "aim": AIM,
            "calls": [asdict(call) for call in calls],
        }
        write_file(options.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
