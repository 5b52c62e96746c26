"""What answering steps from memory saves and costs, beside fewer steps and less guidance.

    python benchmarks/scripts/fast.py [--bundle build/shapes] [--count 32] [--json FILE]

Draws held-out prompts of models/shapes with every setting in turn, and compares each picture with
that of the full run. Prints a table for each sampler.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.page import COLOURS, drawn
from latentrt.bundle.golden import psnr
from latentrt.bundle.publish import write_file
from latentrt.runtime import Guidance, Pipeline, Request, Reuse, Sampling
from latentrt.runtime.denoiser import Denoiser
from latentrt.runtime.reuse import FAST
from latentrt.runtime.rows import Evaluation, Need
from latentrt.runtime.run import DirectRun
from latentrt.runtime.samplers.denoise import Denoise
from latentrt.runtime.schedules.schedule import Position, Schedule

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "shapes"))
from adherence import check, evaluation_scenes
from scenes import plain_caption

STEPS: Final = 20
SCALE: Final = 5.0
SAMPLERS: Final = ("ddim", "dpmpp_2m")
_BEST: Final = 99.0
"""dB for two pictures that are the same."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to draw: its kind is its line in the plot."""

    kind: str
    name: str
    steps: int = STEPS
    reuse: Reuse | None = None
    interval: tuple[float, float] | None = None
    start: float = 0.0

    def request(self, prompt: str, seed: int, sampler: str) -> Request:
        """The request of one picture."""
        return Request(
            prompt,
            seed=seed,
            sampling=Sampling(sampler, steps=self.steps),
            guidance=Guidance(SCALE, interval=self.interval, start=self.start),
            reuse=self.reuse,
        )


FULL: Final = Setting("full run", "full run")
SETTINGS: Final = (
    FULL,
    *(Setting("fewer steps", f"{steps} steps", steps) for steps in (14, 12, 10)),
    *(
        Setting("reuse", f"threshold {each:g}", reuse=replace(FAST, threshold=each))
        for each in (0.1, 0.175)
    ),
    Setting("reuse", "--fast", reuse=FAST),
    Setting("reuse", "threshold 0.4", reuse=replace(FAST, threshold=0.4, max_consecutive=3)),
    *(
        Setting("guidance interval", f"guidance above {low:g}", interval=(low, 1000.0))
        for low in (0.5, 2.0)
    ),
    Setting("skip early", "guidance from step 3 on", start=0.1),
)


class Counted:
    """A denoiser that counts the U-Net's rows."""

    def __init__(self, inner: Denoiser, counts: list[int]) -> None:
        self._inner = inner
        self._counts = counts

    def __call__(
        self, asked: Denoise, at: Position, channels: NDArray[np.float32] | None = None
    ) -> Evaluation[NDArray[np.float32]]:
        evaluation = self._inner(asked, at, channels)
        try:
            rows = next(evaluation)
            while True:
                self._counts.append(len(rows))
                rows = evaluation.send((yield rows))
        except StopIteration as finished:
            return finished.value

    def of(self, image: int) -> Counted:
        """The same for one of the pictures."""
        return Counted(self._inner.of(image), self._counts)

    def needs(self, schedule: Schedule, shape: tuple[int, int]) -> frozenset[Need]:
        """What the inner denoiser needs."""
        return self._inner.needs(schedule, shape)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture: uint8 [h, w, 3], its seconds, the rows that the U-Net was asked."""

    pixels: NDArray[np.uint8]
    seconds: float
    rows: int
    right: float


def draw(pipeline: Pipeline, request: Request, scene: Any) -> Drawn:
    """Draw one picture; `right` is the share of four properties that are as asked."""
    counts: list[int] = []
    begun = time.perf_counter()
    plan = pipeline.plan(request)
    legs = tuple(replace(leg, denoiser=Counted(leg.denoiser, counts)) for leg in plan.legs)
    (image,) = DirectRun(replace(plan, legs=legs)).result().images
    seconds = time.perf_counter() - begun
    found = check(image, scene)
    right = np.mean([found.colour, found.background, found.position, found.shape])
    return Drawn(np.asarray(image), seconds, sum(counts), float(right))


def measured(pipeline: Pipeline, sampler: str, count: int) -> list[dict[str, Any]]:
    """Every setting's numbers, over `count` prompts that each setting draws in turn."""
    found: dict[Setting, list[Drawn]] = {each: [] for each in SETTINGS}
    for seed, scene in enumerate(evaluation_scenes(count)):
        for setting, pictures in found.items():
            request = setting.request(plain_caption(scene), seed, sampler)
            if seed == 0:
                pipeline(request)  # the first of its shapes compiles
            pictures.append(draw(pipeline, request, scene))
        print(f"{sampler}: {seed + 1} of {count}", file=sys.stderr)
    return [_summary(setting, pictures, found[FULL]) for setting, pictures in found.items()]


def _summary(setting: Setting, pictures: Sequence[Drawn], full: Sequence[Drawn]) -> dict[str, Any]:
    pairs = list(zip(pictures, full, strict=True))
    near = [min(psnr(a.pixels, b.pixels, peak=255.0), _BEST) for a, b in pairs]
    return {
        "kind": setting.kind,
        "name": setting.name,
        "rows": _percentiles([a.rows / b.rows for a, b in pairs]),
        "times_as_fast": _percentiles([b.seconds / a.seconds for a, b in pairs]),
        "seconds": _percentiles([a.seconds for a in pictures]),
        "psnr": _percentiles(near),
        "adherence": float(np.mean([a.right for a in pictures])),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p10, median, p90 = np.percentile(values, (10, 50, 90))
    return {
        "median": round(float(median), 4),
        "p10": round(float(p10), 4),
        "p90": round(float(p90), 4),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The numbers as a table in Markdown."""
    lines = [
        "| setting | U-Net rows | times as fast (p10, p90) | PSNR, dB (p10) | adherence |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        fast, near = row["times_as_fast"], row["psnr"]
        lines.append(
            f"| {row['name']} | {row['rows']['median']:.0%} "
            f"| {fast['median']:.2f} ({fast['p10']:.2f}, {fast['p90']:.2f}) "
            f"| {near['median']:.1f} ({near['p10']:.1f}) | {row['adherence']:.1%} |"
        )
    return "\n".join(lines)


def draw_plot(figure: Any, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """PSNR against time, a panel for each sampler and a line for each kind of setting."""
    for axes, (sampler, rows) in zip(
        figure.subplots(1, len(found), sharey=True, squeeze=False)[0], found.items(), strict=True
    ):
        kinds = list(dict.fromkeys(row["kind"] for row in rows if row["kind"] != FULL.kind))
        for kind, colour in zip(kinds, COLOURS, strict=False):
            own = [row for row in rows if row["kind"] == kind]
            x = [1 / row["times_as_fast"]["median"] for row in own]
            y = [row["psnr"]["median"] for row in own]
            below = [row["psnr"]["median"] - row["psnr"]["p10"] for row in own]
            axes.errorbar(
                x, y, yerr=[below, [0] * len(y)], label=kind, color=colour, marker="o", capsize=2
            )
            for row, at, height in zip(own, x, y, strict=True):
                if row["name"] == "--fast":
                    axes.annotate("--fast", (at, height), xytext=(6, 6), textcoords="offset points")
        axes.axhline(30, linewidth=0.8, linestyle=":")
        axes.set_title(sampler)
        axes.set_xlabel("time, share of the full run's")
        axes.set_xlim(0.3, 1.15)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("PSNR to the full run, dB (bars: to p10)")
    figure.axes[0].legend(loc="lower right")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/shapes"))
    parser.add_argument("--count", type=int, default=32, help="prompts (32)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the plot, a PNG")
    parser.add_argument("--again", type=Path, metavar="FILE", help="plot and print these numbers")
    args = parser.parse_args()
    if args.again is None:
        with Pipeline.open(args.bundle, precision="fp32") as pipeline:
            found = {name: measured(pipeline, name, args.count) for name in SAMPLERS}
            engine = pipeline.engines["unet"]
        value = {
            "machine": Machine.here().to_json(),
            "engine": engine,
            "steps": STEPS,
            "guidance": SCALE,
            "count": args.count,
            "samplers": found,
        }
    else:
        value = json.loads(args.again.read_text(encoding="utf-8"))
        found = value["samplers"]
    if args.json is not None:
        write_file(args.json, (json.dumps(value, indent=1) + "\n").encode())
    if args.plot is not None:
        write_file(args.plot, drawn(lambda figure: draw_plot(figure, found), (9.0, 3.6), "png"))
    for sampler, rows in found.items():
        print(f"\n{sampler}, {STEPS} steps\n\n{table(rows)}")


if __name__ == "__main__":
    main()
