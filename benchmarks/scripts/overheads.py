"""What the runtime costs without engines: importing it, and a sampler's own part of a step.

    python benchmarks/scripts/overheads.py

A step beyond its engine calls is the row "runtime" of `latentrt bench`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.samples import Ratio, Samples
from latentrt.runtime.samplers import sample
from latentrt.runtime.schedules import CATALOGUE, build_schedule, find_sampler

_STEPS: Final = 50
_BETAS: Final[Mapping[str, object]] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def import_seconds(module: str, repeats: int) -> Samples:
    """An import in fresh processes, timed inside, after one that warms the disk's cache."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    found = [
        float(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)
        for _ in range(repeats + 1)
    ]
    return Samples.of(found[1:])


class _ReadyNoise:
    """A stream whose numbers are there already: making them is no part of a sampler's work."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._numbers = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return self._numbers.reshape(shape)

    def increment(
        self, shape: tuple[int, ...], sigma: float, sigma_next: float
    ) -> NDArray[np.float32]:
        del sigma, sigma_next
        return self._numbers.reshape(shape)


def sampler_seconds(sampler: str, size: int, repeats: int) -> Samples:
    """A sampler's mean seconds an evaluation, on latents [4, size, size], model and noise apart."""
    name = find_sampler(sampler).class_name
    betas = {} if name.startswith("EDM") else _BETAS
    schedule = build_schedule({"_class_name": name, **betas}, steps=_STEPS, sampler=sampler)
    noise = _ReadyNoise((4, size, size))
    estimate = noise.normal((4, size, size)) * np.float32(0.1)
    found: list[float] = []
    for _ in range(repeats + 1):
        latent = noise.normal((4, size, size)) * np.float32(schedule.init_scale)
        begun = time.perf_counter()
        run = sample(latent, schedule, noise=noise)
        try:
            asked = next(run)
            while True:
                asked = run.send((asked.latent, estimate))
        except StopIteration:
            found.append((time.perf_counter() - begun) / len(schedule.evaluations))
    return Samples.of(found[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    numpy, ours = (import_seconds(each, repeats) for each in ("numpy", "latentrt.runtime"))
    ratio = Ratio.of(ours, numpy)
    print(f"import latentrt.runtime  {ours.median * 1e3:.0f} ms, {ratio} times import numpy")
    for sampler in CATALOGUE:
        found = [sampler_seconds(sampler, size, repeats).median * 1e3 for size in (64, 128)]
        print(f"{sampler:<24} {found[0]:.3f} ms at 64x64, {found[1]:.3f} ms at 128x128 latents")


if __name__ == "__main__":
    main()
