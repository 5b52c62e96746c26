"""How well a bundle draws what captions of held-out scenes ask for.

    python models/shapes/evaluate.py [--bundle build/shapes] [--engine auto] [--precision auto]
                                     [--count 200] [--steps 20] [--guidance 5] [--json FILE]

Prints the shares that are right, for scenes of one and of two shapes apart, and what each wrong
picture shows instead. Needs no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

from adherence import Report, evaluate, evaluation_scenes
from latentrt.runtime import Pipeline, Request, Sampling

STEPS = 20
GUIDANCE = 5.0


def evaluation(
    pipeline: Pipeline, count: int, *, steps: int = STEPS, guidance: float = GUIDANCE
) -> Report:
    """Draw the first `count` prompts of the evaluation and check each picture."""
    sampling = Sampling(steps=steps)

    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            request = Request(prompt, seed=seed, sampling=sampling, guidance=guidance)
            pictures += pipeline(request).images
            if len(pictures) % 20 == 0:
                print(f"{len(pictures)} of {len(prompts)}", file=sys.stderr)
        return pictures

    return evaluate(generate, evaluation_scenes(count))


def main() -> None:
    """Evaluate the bundle named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/shapes"))
    parser.add_argument("--engine", default="auto", help="as `latentrt generate` takes it (auto)")
    parser.add_argument("--precision", default="auto", help="fp32, bf16 or fp16 (auto)")
    parser.add_argument("--count", type=int, default=200, help="how many prompts (200)")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the sampler (20)")
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="guidance scale (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome to FILE")
    args = parser.parse_args()

    with Pipeline.open(args.bundle, engine=args.engine, precision=args.precision) as pipe:
        report = evaluation(pipe, args.count, steps=args.steps, guidance=args.guidance)
    if args.json:
        settings = {"bundle": args.bundle.name, "steps": args.steps, "guidance": args.guidance}
        args.json.write_text(
            json.dumps(settings | report.record(), indent=1) + "\n", encoding="utf-8"
        )
    print(report)


if __name__ == "__main__":
    main()
