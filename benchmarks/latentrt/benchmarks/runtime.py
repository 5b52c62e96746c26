"""What the runtime itself costs: importing it, and a step without the engine.

    python -m latentrt.benchmarks.runtime [--json FILE]

Aims: an import under 0.2 s; a step at 64 x 64 latents under 0.5 ms, with guidance, the first noise
and engine calls apart; a sampler's own part of it under 1 ms at 128 x 128, all noise apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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
from latentrt.runtime import Batcher, Request, Sampling
from latentrt.runtime.denoiser import Condition, GuidedDenoiser
from latentrt.runtime.plan import Latent, Leg, PictureNoise, Plan
from latentrt.runtime.rows import Evaluation, Model
from latentrt.runtime.run import DirectRun
from latentrt.runtime.samplers import sample
from latentrt.runtime.schedules import CATALOGUE, build_schedule, find_sampler

IMPORT_AIM: Final = 0.2
STEP_AIM: Final = 0.5e-3
SAMPLER_AIM: Final = 1e-3
LATENTS: Final = ((64, 64), (128, 128))
_STEPS: Final = 50
_BETAS: Final[Mapping[str, object]] = {
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
        float(
            subprocess.run(
                run, capture_output=True, text=True, check=True, encoding="utf-8", errors="replace"
            ).stdout
        )
        for _ in range(repeats + 1)
    ]
    return Spread.of(found[1:])


class _Prepared:
    """A stream whose numbers are there already: drawing them is no part of a sampler's work."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._numbers = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The same numbers at every call."""
        return self._numbers.reshape(shape)

    def increment(
        self, shape: tuple[int, ...], sigma: float, sigma_next: float
    ) -> NDArray[np.float32]:
        """The same numbers for every pair of levels."""
        del sigma, sigma_next
        return self._numbers.reshape(shape)


def sampler_seconds(sampler: str, height: int, width: int, repeats: int) -> Spread:
    """A sampler's own time per evaluation: neither model, guidance nor drawing of noise.

    One measurement is the mean over the evaluations of a run.
    """
    schedule = build_schedule(_config(sampler), steps=_STEPS, sampler=sampler)
    noise = _Prepared((4, height, width))
    estimate = noise.normal((4, height, width)) * np.float32(0.1)
    found: list[float] = []
    for _ in range(repeats + 1):
        start = noise.normal((4, height, width)) * np.float32(schedule.init_scale)
        begun = time.perf_counter()
        run = sample(start, schedule, noise=noise)
        try:
            asked = next(run)
            while True:
                asked = run.send((asked.latent, estimate))
        except StopIteration:
            found.append((time.perf_counter() - begun) / len(schedule.evaluations))
    return Spread.of(found[1:])


def _config(sampler: str) -> Mapping[str, object]:
    """A scheduler config of the sampler's own class."""
    name = find_sampler(sampler).class_name
    betas = {} if name.startswith("EDM") else _BETAS
    return {"_class_name": name, **betas}


def step_seconds(sampler: str, height: int, width: int, repeats: int) -> Spread:
    """The runtime's own time per guided step: everything but the engine call and the first noise.

    One measurement is the mean over the steps of a run after its first.
    """
    found = [_one_run(sampler, height, width) for _ in range(repeats + 1)]
    return Spread.of(found[1:])


def _one_run(sampler: str, height: int, width: int) -> float:
    model = InstantModel((4, height, width))
    sampling = Sampling(sampler, steps=_STEPS)
    steps = iter(DirectRun(model.plan(Request("", seed=0, sampling=sampling, guidance=7.5))))
    next(steps)
    before, begun = model.inside, time.perf_counter()
    count = sum(1 for _ in steps)
    return (time.perf_counter() - begun - (model.inside - before)) / count


def batched_step_seconds(rows: int, height: int, width: int, repeats: int) -> Spread:
    """What a batched U-Net call costs beyond the engine, with `rows` rows of guided pictures.

    One measurement is the mean over the calls of a run; the pictures' steps and the handing over
    between threads are in it.
    """
    found: list[float] = []
    for _ in range(repeats + 1):
        model = InstantModel((4, height, width))
        sampling = Sampling("euler", steps=_STEPS)
        requests = [Request("", seed=i, sampling=sampling, guidance=7.5) for i in range(rows // 2)]
        with Batcher(model, batch_sizes=(rows,)) as batcher:
            plans = [batcher.submit(each) for each in requests]
            plans[0].result()
            calls, before, begun = batcher.load.calls, model.inside, time.perf_counter()
            for run in [batcher.submit(each) for each in requests]:
                run.result()
            spent = time.perf_counter() - begun - (model.inside - before)
            found.append(spent / (batcher.load.calls - calls))
    return Spread.of(found[1:])


class InstantModel:
    """A planner whose U-Net has its answer ready; `inside` is the time spent in its calls."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.inside = 0.0
        self._shape = shape
        text = np.zeros((77, 768), np.float32)
        self._condition = Condition({"encoder_hidden_states": text})
        names = {
            "sample": ("batch", *shape),
            "timestep": ("batch",),
            "encoder_hidden_states": ("batch", *text.shape),
        }
        self._inputs = tuple(TensorSpec(name, dims) for name, dims in names.items())
        self._unet = Model("unet", self._inputs, self._engine)

    def plan(
        self, request: Request, *, batches: Sequence[int] = (2,), decodes: Sequence[int] = (1,)
    ) -> Plan:
        """A plan of `request` over this U-Net."""
        sampling = request.sampling
        config = _config(sampling.sampler or "euler")
        schedule = build_schedule(config, steps=sampling.steps, sampler=sampling.sampler)
        condition = self._condition
        denoiser = GuidedDenoiser(self._unet, (condition,), condition, request.guidance)

        def enter(_: Latent | None, noise: PictureNoise) -> Latent:
            return noise.begin(self._shape) * np.float32(schedule.init_scale)

        return Plan(
            request=request,
            legs=(Leg(schedule, denoiser, enter),),
            decode=_black,
            model="",
            batches={"unet": tuple(batches), "vae": tuple(decodes)},
        )

    def _engine(self, sizes: Mapping[str, int]) -> FunctionEngine:
        rng = np.random.default_rng(0)
        output = rng.standard_normal((sizes["batch"], *self._shape), dtype=np.float32)

        def evaluate(inputs: Arrays) -> dict[str, NDArray[Any]]:
            del inputs
            begun = time.perf_counter()
            result = {"model_output": output.copy()}
            self.inside += time.perf_counter() - begun
            return result

        specs = tuple(each.fixed(sizes) for each in self._inputs)
        return FunctionEngine("unet", specs, (), evaluate)


def _black(_: Latent) -> Evaluation[NDArray[np.float32]]:
    return np.zeros((3, 8, 8), np.float32)
    yield []


def measure(repeats: int) -> dict[str, Any]:
    """Every measurement, with what it was made on."""
    return {
        "machine": Machine.here().to_json(),
        "import_seconds": asdict(import_seconds(repeats)),
        "import_aim": IMPORT_AIM,
        "step_aim_64x64": STEP_AIM,
        "step_seconds": [
            {
                "sampler": "euler",
                "latent": [4, h, w],
                **asdict(step_seconds("euler", h, w, repeats)),
            }
            for h, w in LATENTS
        ],
        "batched_step_seconds": [
            {"rows": 8, "latent": [4, h, w], **asdict(batched_step_seconds(8, h, w, repeats))}
            for h, w in LATENTS
        ],
        "sampler_aim_128x128": SAMPLER_AIM,
        "sampler_seconds": [
            {"sampler": name, "latent": [4, h, w], **asdict(sampler_seconds(name, h, w, repeats))}
            for name in CATALOGUE
            for h, w in LATENTS
        ],
    }


def print_table(measured: dict[str, Any]) -> None:
    """Medians with their ranges."""
    machine = measured["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}")
    imported = measured["import_seconds"]
    ends = f"({imported['least'] * 1e3:.0f} to {imported['greatest'] * 1e3:.0f})"
    print(f"{'import latentrt.runtime':<34}{imported['median'] * 1e3:9.1f} ms  {ends}")
    for row in measured["step_seconds"]:
        _print_row(f"guided step, {row['sampler']}", row)
    for row in measured["batched_step_seconds"]:
        _print_row(f"batched call, {row['rows']} rows", row)
    for row in measured["sampler_seconds"]:
        _print_row(f"{row['sampler']} alone", row)


def _print_row(name: str, row: Mapping[str, Any]) -> None:
    size = f"{row['latent'][1]} x {row['latent'][2]}"
    ends = f"({row['least'] * 1e3:.3f} to {row['greatest'] * 1e3:.3f})"
    print(f"{name:<22}{size:<12}{row['median'] * 1e3:9.3f} ms  {ends}")


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
