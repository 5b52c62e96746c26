"""What the runtime itself costs: importing it, and a step without the engine.

    python -m latentrt.benchmarks.runtime [--json FILE]

Aims: an import under 0.2 s; a step at 64 x 64 latents under 0.5 ms, with guidance, drawing of noise
and engine calls apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.machine import Machine
from latentrt.bundle.publish import write_file
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays
from latentrt.engines.function import FunctionEngine
from latentrt.runtime.request import Guidance, Request, Sampling
from latentrt.runtime.run import Plan, Run
from latentrt.runtime.samplers import SAMPLERS
from latentrt.runtime.schedules import build_schedule

IMPORT_AIM: Final = 0.2
STEP_AIM: Final = 0.5e-3
LATENTS: Final = ((64, 64), (128, 128))
_STEPS: Final = 50
_SCHEDULER: Final[Mapping[str, object]] = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds: the median of several measurements, and the least and the greatest."""

    median: float
    least: float
    greatest: float

    @staticmethod
    def of(seconds: list[float]) -> Spread:
        """Of at least one measurement."""
        return Spread(statistics.median(seconds), min(seconds), max(seconds))


def import_seconds(repeats: int) -> Spread:
    """`import latentrt.runtime` in fresh processes, timed inside, after one to warm the disk."""
    code = (
        "import time; t = time.perf_counter(); import latentrt.runtime; "
        "print(time.perf_counter() - t)"
    )
    run = [sys.executable, "-c", code]
    found = [
        float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats + 1)
    ]
    return Spread.of(found[1:])


def step_seconds(sampler: str, height: int, width: int, repeats: int) -> Spread:
    """The runtime's own time per guided step: everything but the engine call and the first noise.

    One measurement is the mean over the steps of a run after its first.
    """
    found = [_one_run(sampler, height, width) for _ in range(repeats + 1)]
    return Spread.of(found[1:])


def _one_run(sampler: str, height: int, width: int) -> float:
    rng = np.random.default_rng(0)
    output = rng.standard_normal((2, 4, height, width), dtype=np.float32)
    inside = 0.0

    def evaluate(inputs: Arrays) -> dict[str, NDArray[Any]]:
        nonlocal inside
        del inputs
        begun = time.perf_counter()
        result = {"model_output": output.copy()}
        inside += time.perf_counter() - begun
        return result

    text = np.zeros((2, 77, 768), np.float32)
    specs = (
        TensorSpec("sample", (2, 4, height, width)),
        TensorSpec("timestep", (2,)),
        TensorSpec("encoder_hidden_states", text.shape),
    )
    plan = Plan(
        request=Request("", seed=0, sampling=Sampling(sampler), guidance=Guidance(7.5)),
        schedule=build_schedule(_SCHEDULER, steps=_STEPS, sampler=sampler),
        text=text,
        unet=FunctionEngine("unet", specs, (), evaluate),
        decode=lambda latents: np.zeros((1, 3, 8, 8), np.float32),
        latent_shape=(4, height, width),
        model="",
        notes=(),
        seconds=(0.0, 0.0),
    )
    steps = iter(Run(plan))
    next(steps)
    before, begun = inside, time.perf_counter()
    for _ in range(_STEPS - 1):
        next(steps)
    return (time.perf_counter() - begun - (inside - before)) / (_STEPS - 1)


def measure(repeats: int) -> dict[str, Any]:
    """Every measurement, with what it was made on."""
    return {
        "machine": Machine.here().to_json(),
        "import_seconds": asdict(import_seconds(repeats)),
        "import_aim": IMPORT_AIM,
        "step_aim_64x64": STEP_AIM,
        "step_seconds": [
            {"sampler": name, "latent": [4, h, w], **asdict(step_seconds(name, h, w, repeats))}
            for name in sorted(SAMPLERS)
            for h, w in LATENTS
        ],
    }


def print_table(measured: dict[str, Any]) -> None:
    """Medians with their ranges."""
    machine = measured["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}")
    imported = measured["import_seconds"]
    ends = f"({imported['least'] * 1e3:.0f} to {imported['greatest'] * 1e3:.0f})"
    print(f"{'import latentrt.runtime':<28}{imported['median'] * 1e3:9.1f} ms  {ends}")
    for row in measured["step_seconds"]:
        name = f"{row['sampler']} step, {row['latent'][1]} x {row['latent'][2]}"
        ends = f"({row['least'] * 1e3:.3f} to {row['greatest'] * 1e3:.3f})"
        print(f"{name:<28}{row['median'] * 1e3:9.3f} ms  {ends}")


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the measurements here")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    measured = measure(options.repeats)
    print_table(measured)
    if options.json is not None:
        write_file(options.json, (json.dumps(measured, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
