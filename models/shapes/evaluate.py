"""How well a bundle draws what captions of held-out scenes ask for.

    python models/shapes/evaluate.py [--bundle build/shapes] [--count 200] [--steps 20]
                                     [--guidance 5] [--json FILE]

Prints the shares that are right, for scenes of one and of two shapes apart, and what was seen
where something is wrong. Needs no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

from latentrt.benchmarks.adherence import evaluate, evaluation_scenes
from latentrt.runtime import Guidance, Pipeline, Request, Sampling


def main() -> None:
    """Evaluate the bundle named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/shapes"))
    parser.add_argument("--count", type=int, default=200, help="how many prompts (200)")
    parser.add_argument("--steps", type=int, default=20, help="steps of the sampler (20)")
    parser.add_argument("--guidance", type=float, default=5.0, help="guidance scale (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome to FILE")
    args = parser.parse_args()

    pipe = Pipeline.open(args.bundle)
    sampling, guidance = Sampling(steps=args.steps), Guidance(args.guidance)

    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            result = pipe(Request(prompt, seed=seed, sampling=sampling, guidance=guidance))
            pictures += result.images
            if len(pictures) % 20 == 0:
                print(f"{len(pictures)} of {len(prompts)}", file=sys.stderr)
        return pictures

    report = evaluate(generate, evaluation_scenes(args.count))
    if args.json:
        settings = {"bundle": args.bundle.name, "steps": args.steps, "guidance": args.guidance}
        args.json.write_text(json.dumps(settings | report.record(), indent=1) + "\n")
    print(report)


if __name__ == "__main__":
    main()
